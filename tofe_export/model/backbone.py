"""The contract between ToFe and a vision transformer.

ToFe needs five things of a backbone: tokens from images, a list of blocks that do not care which tokens
they are given, the final norm, the head, and what all this costs. Everything else about the architecture
stays inside its adapter. Blocks must be permutation-equivariant over patch tokens (decision 1): positions
enter in `embed` and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, nn

from tofe_export.errors import UnsupportedModel
from tofe_export.preprocess import Preprocessing


@dataclass(frozen=True)
class HeadCost:
    """MACs of the head: once per image, and per patch token that it reads."""

    fixed: int
    per_token: int = 0


class Backbone(nn.Module, ABC):
    """A vision transformer, cut where ToFe needs it. Shapes: B batch, P prefix, N patch tokens, D width."""

    name: str
    """Name that `create_backbone` takes."""
    arguments: dict[str, Any]
    """Arguments that `create_backbone` takes, JSON-serialisable."""
    prefix: int
    """P: prefix tokens (CLS, distillation, registers), always processed."""
    grid: tuple[int, int]
    """(rows, columns) of patches; N is their product."""
    width: int
    """D."""
    attention_width: int
    """H * d, usually D."""
    image_size: tuple[int, int]
    """(height, width) in pixels."""
    num_classes: int
    """C; 0 for a headless model, whose output is its pooled features."""
    locations: tuple[int, ...]
    """Default blocks (0-based) before which the S selections happen."""
    vit: nn.Module
    """The plain model, whose state dict has the architecture's official keys."""

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, each (B, T, D) -> (B, T, D) for any number of tokens T."""
        return cast(nn.ModuleList, self.vit.blocks)

    @property
    def tokens(self) -> int:
        """N, the number of patch tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def output(self) -> str:
        """Name of what `head` returns: "logits", or "features" for a headless model."""
        return "logits" if self.num_classes else "features"

    @property
    def head_rows(self) -> int | None:
        """How many leading tokens the head reads; None where it reads patches."""
        return None

    @abstractmethod
    def embed(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into tokens (B, P + N, D), prefix first, patches row-major."""

    @abstractmethod
    def final_norm(self, x: Tensor) -> Tensor:
        """Norm after the last block, (B, T, D) -> (B, T, D)."""

    @abstractmethod
    def head(self, x: Tensor) -> Tensor:
        """Logits (B, C), or features (B, D), from final-normed tokens (B, P + K, D)."""

    @abstractmethod
    def masked_head(self, x: Tensor, mask: Tensor) -> Tensor:
        """`head` on final-normed tokens (B, P + N, D) of which only the prefix and mask (B, N) = 1 count."""

    def dense(self, images: Tensor) -> Tensor:
        """Run the unmodified model: what the `dense` lowering must equal."""
        return cast(Tensor, self.vit(images))

    @abstractmethod
    def token_macs(self) -> int:
        """MACs of all linear layers of one block, per token."""

    @abstractmethod
    def stem_macs(self) -> int:
        """MACs from pixels to tokens."""

    @abstractmethod
    def head_cost(self) -> HeadCost:
        """MACs of the head."""

    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """Return how images must be prepared, as the model's authors evaluate it."""

    @abstractmethod
    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load a state dict in the architecture's official layout.

        Raises:
            CheckpointError: keys or shapes do not fit; the message names them.
        """


def create_backbone(name: str, arguments: Mapping[str, Any] | None = None) -> Backbone:
    """Build a backbone by name, without weights: `lvvit_s`, `lvvit_m`, or any timm `VisionTransformer`.

    Raises:
        UnsupportedModel: no such model, or one that ToFe cannot be put into, with the reason.
    """
    from tofe_export.model.lv_vit import LV_VITS, LvVit
    from tofe_export.model.timm_vit import TimmVit

    chosen = dict(arguments or {})
    if name not in LV_VITS:
        return TimmVit(name, **chosen)
    try:
        return LvVit(name, **chosen)
    except (TypeError, ValueError) as error:
        raise UnsupportedModel(f"{name} could not be built with {chosen}: {error}") from error
