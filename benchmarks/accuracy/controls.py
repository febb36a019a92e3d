"""Controls: the same cost without learning what to keep, and without token reduction at all.

Shapes: B images, S stages, N patch tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import ceil
from typing import Literal, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from accuracy.rivals.layers import attention_macs, mlp_macs, outer_macs
from accuracy.rivals.reduced import Reduced, nearest
from tofe_export.budget import macs
from tofe_export.model.backbone import Backbone, create_backbone
from tofe_export.model.freezer import ForcedFreezer
from tofe_export.model.masked import given, masked_forward
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.training.batch import Batch, Step
from tofe_export.training.losses import approximation_loss, classification_loss
from tofe_export.training.objective import Objective, Terms
from tofe_export.training.seeding import NOISE, logistic
from tofe_export.training.teacher import Teacher

PROFILE = (0.5, 0.25, 0.125)  # the fixed ratios of Table V
Pattern = Literal["random", "radial"]
_EVALUATION = 1_000_003  # an epoch that no training reaches: keys the draws of evaluation


def dense_macs_of(backbone: Backbone) -> int:
    """MACs per image of a plain backbone."""
    tokens = backbone.prefix + backbone.tokens
    block = attention_macs(backbone, tokens) + mlp_macs(backbone, tokens)
    return outer_macs(backbone, backbone.tokens) + len(backbone.blocks) * block


def scaled_profile(tokens: int, scale: float) -> tuple[int, ...]:
    """Keep counts of Table V's fixed ratios times `scale`, 1 to N each."""
    return tuple(max(1, min(tokens, round(scale * share * tokens))) for share in PROFILE)


class FixedPattern(Reduced):
    """ToFe whose selectors are replaced by chance or by closeness to the centre.

    Freezing, approximators and recovery are ToFe's own, so what differs is the choice of tokens alone. Chance
    is drawn anew for every image and stage.
    """

    def __init__(
        self, backbone: Backbone, locations: tuple[int, ...], pattern: Pattern, keep: Sequence[int]
    ) -> None:
        super().__init__()
        self.model = ToFe(backbone, Structure(locations))
        self.pattern, self.keep = pattern, tuple(keep)

    @classmethod
    def for_macs(
        cls, backbone: Backbone, locations: tuple[int, ...], pattern: Pattern, target: float
    ) -> FixedPattern:
        """Table V's ratios, scaled to the cost nearest to `target`."""
        model = cls(backbone, locations, pattern, scaled_profile(backbone.tokens, 1.0))
        scales = [thousandths / 1000 for thousandths in range(1, 8001)]
        plans = sorted({scaled_profile(backbone.tokens, scale) for scale in scales})
        model.keep = nearest(plans, model._price, target)
        return model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C); images drawn at random are told apart by their place in the batch."""
        shape = (self.model.stages, self.model.backbone.tokens)
        noise = torch.stack([logistic(shape, NOISE, _EVALUATION, i) for i in range(len(images))])
        masks = [mask.bool() for mask in self.masks(noise.to(images.device))]
        logits: Tensor = self.model(images, ForcedFreezer(masks))
        return logits

    def masks(self, noise: Tensor) -> list[Tensor]:
        """One mask (B, N) per stage, from noise (B, S, N)."""
        wanted = noise.unbind(1) if self.pattern == "random" else [self._closeness(noise)] * len(self.keep)
        return [
            torch.zeros_like(scores).scatter(1, scores.argsort(dim=1, descending=True)[:, :keep], 1.0)
            for scores, keep in zip(wanted, self.keep, strict=True)
        ]

    def macs(self) -> int:
        """MACs per image: no selector is needed."""
        return self._price(self.keep)

    def kept(self) -> tuple[int, ...]:
        """Patch tokens kept in each stage."""
        return self.keep

    def _price(self, keep: Sequence[int]) -> int:
        linear = (m for m in self.model.selectors.modules() if isinstance(m, nn.Linear))
        selectors = self.model.backbone.tokens * sum(m.weight.numel() for m in linear)
        return macs(self.model.cost(), keep) - selectors

    def _closeness(self, noise: Tensor) -> Tensor:
        """Negative squared distance from the centre (B, N); of equals, the upper left is closer."""
        rows, columns = (torch.arange(n, device=noise.device) - (n - 1) / 2 for n in self.model.backbone.grid)
        square = (rows[:, None].square() + columns[None, :].square()).flatten()
        nudge = torch.arange(len(square), device=noise.device) * 1e-6
        return (-square - nudge).to(noise.dtype).expand(len(noise), -1)


class FixedPatternObjective(Objective):
    """ToFe's losses without a budget: class loss and 2 * Eq. 10."""

    student: FixedPattern

    def __init__(self, model: FixedPattern, lambda_apr: float) -> None:
        super().__init__()
        self.student, self.lambda_apr = model, lambda_apr
        self.teacher = Teacher(model.model.backbone, model.model.structure.locations[1:])

    def forward(self, batch: Batch, step: Step) -> Terms:
        """Terms "cls" and "apr"."""
        model = self.student.model
        masked = masked_forward(model, batch.images, given(self.student.masks(batch.noise)))
        apr = approximation_loss(masked.stages, self.teacher(batch.images).tokens)
        return Terms(
            {"cls": classification_loss(masked.output, batch.targets), "apr": self.lambda_apr * apr}, {}
        )

    def groups(self) -> dict[str, list[nn.Parameter]]:
        """The approximators are "modules"; the selectors, which nobody asks, are in no group."""
        model = self.student.model
        return {
            "modules": list(model.approximators.parameters()),
            "backbone": list(model.backbone.parameters()),
        }


class FewerBlocks(Reduced):
    """The backbone's first blocks, its norm and its head."""

    def __init__(self, backbone: Backbone, blocks: int) -> None:
        super().__init__()
        self.backbone = copy.deepcopy(backbone)
        vit = cast(VisionTransformer, self.backbone.vit)
        vit.blocks = vit.blocks[:blocks]

    @classmethod
    def for_macs(cls, backbone: Backbone, target: float) -> FewerBlocks:
        """The depth whose cost is nearest to `target`."""
        depths = range(1, len(backbone.blocks) + 1)
        return cls(backbone, nearest(depths, lambda n: cls(backbone, n).macs(), target))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        return self.backbone.dense(images)

    def macs(self) -> int:
        """MACs per image."""
        return dense_macs_of(self.backbone)

    def kept(self) -> tuple[int, ...]:
        """All patch tokens."""
        return (self.backbone.tokens,)


class LowerResolution(Reduced):
    """The backbone on smaller images, hence fewer tokens; its positions are resampled."""

    def __init__(self, backbone: Backbone, side: int) -> None:
        super().__init__()
        patch = ceil(backbone.image_size[0] / backbone.grid[0])
        arguments = backbone.arguments | {"img_size": [side * patch, side * patch]}
        self.backbone = create_backbone(backbone.name, arguments)
        self.backbone.load_weights(backbone.vit.state_dict())

    @classmethod
    def for_macs(cls, backbone: Backbone, target: float) -> LowerResolution:
        """The patches per side whose cost is nearest to `target`."""
        sides = range(1, backbone.grid[0] + 1)
        return cls(backbone, nearest(sides, lambda side: cls(backbone, side).macs(), target))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images of the full size, made smaller here."""
        size = self.backbone.image_size
        small = functional.interpolate(images, size, mode="bilinear", antialias=True)
        return self.backbone.dense(small)

    def macs(self) -> int:
        """MACs per image; making it smaller is free."""
        return dense_macs_of(self.backbone)

    def kept(self) -> tuple[int, ...]:
        """Patch tokens of the smaller image."""
        return (self.backbone.tokens,)
