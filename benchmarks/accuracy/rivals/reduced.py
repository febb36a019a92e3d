"""What a neighbour is: a backbone that drops, merges or idles tokens, with a price that can be chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import TypeVar

from torch import Tensor, nn

from tofe_export.model.backbone import Backbone

Setting = TypeVar("Setting")


class Reduced(nn.Module, ABC):
    """A backbone with a token reduction built in."""

    backbone: Backbone

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W), the reduced tokens really left out."""

    @abstractmethod
    def macs(self) -> int:
        """MACs per image of `forward`; norms, softmax, sorting and data movement are free, as everywhere."""

    @abstractmethod
    def kept(self) -> tuple[int, ...]:
        """Patch tokens that remain after each reduction."""


def nearest(settings: Iterable[Setting], price: Callable[[Setting], int], target: float) -> Setting:
    """The setting whose price is nearest to `target` MACs; of two, the cheaper."""
    return min(settings, key=lambda setting: (abs(price(setting) - target), price(setting)))
