"""DynamicViT: predictors drop tokens for good, at three places.

Rao et al., NeurIPS 2021. It is ToFe's ancestor, so the pieces are ours: ToFe without reuse and with
DynamicViT's predictor is DynamicViT. Keep counts are int(r N), int(r^2 N), int(r^3 N). In training a token is
dropped by a Gumbel sample and attention is masked; at inference the best of those left are kept.

Its recipe: class loss, 2 * squared error of each image's kept share (mean over stages), 0.5 * KL to the
original's logits, 0.5 * squared distance of the kept tokens' last features from the original's; the
backbone's learning rate is 0.01 of the predictors' and 0 during the first sixth of the epochs; CLS and
positions stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from accuracy.objectives import LastTokens
from accuracy.rivals.reduced import Reduced, nearest
from tofe_export.budget import macs
from tofe_export.model.backbone import Backbone
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.masked import masked_forward, sampled
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.training.batch import Batch, Step
from tofe_export.training.losses import classification_loss, distillation_loss, ratio_loss
from tofe_export.training.objective import Objective, Terms

RATIO, KL, TOKENS = 2.0, 0.5, 0.5
BACKBONE_LR_SCALE = 0.01


class DynamicViT(Reduced):
    """A backbone with predictors before the blocks `locations` that keep r, r^2, ... of the tokens."""

    def __init__(self, backbone: Backbone, locations: tuple[int, ...], rate: float) -> None:
        super().__init__()
        self.pruned = ToFe(backbone, Structure(locations, "dynamicvit", reuse=False))
        self.rate = rate

    @classmethod
    def for_macs(cls, backbone: Backbone, locations: tuple[int, ...], target: float) -> DynamicViT:
        """The rate r, in thousandths, whose cost is nearest to `target`."""
        model = cls(backbone, locations, 1.0)
        cost = model.pruned.cost()
        rates = (thousandths / 1000 for thousandths in range(1, 1001))
        model.rate = nearest(rates, lambda r: macs(cost, _counts(backbone, len(locations), r)), target)
        return model

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C), dropped tokens left out."""
        logits: Tensor = self.pruned(images, StaticFreezer(self.kept()))
        return logits

    def macs(self) -> int:
        """MACs per image."""
        return macs(self.pruned.cost(), self.kept())

    def kept(self) -> tuple[int, ...]:
        """Patch tokens kept at each place."""
        return _counts(self.pruned.backbone, self.pruned.stages, self.rate)

    @property
    def ratios(self) -> tuple[float, ...]:
        """The shares that training aims at."""
        return tuple(self.rate**s for s in range(1, self.pruned.stages + 1))


def _counts(backbone: Backbone, stages: int, rate: float) -> tuple[int, ...]:
    return tuple(max(1, int(backbone.tokens * rate**s)) for s in range(1, stages + 1))


class DynamicViTObjective(Objective):
    """Trains a DynamicViT as its authors do; its backbone as it is now becomes the teacher."""

    student: DynamicViT

    def __init__(self, model: DynamicViT) -> None:
        super().__init__()
        self.student = model
        self.teacher = LastTokens(model.pruned.backbone)

    def forward(self, batch: Batch, step: Step) -> Terms:
        """Terms "cls", "ratio", "distill" and "tokens"; logs the kept shares."""
        pruned = self.student.pruned
        backbone, noise = pruned.backbone, batch.noise
        masked = masked_forward(pruned, batch.images, sampled(noise))
        tokens, taught = self.teacher(batch.images)
        masks = [stage.mask for stage in masked.stages]
        features = backbone.final_norm(masked.final)[:, backbone.prefix :]
        losses = {
            "cls": classification_loss(masked.output, batch.targets),
            "ratio": RATIO * ratio_loss(masks, self.student.ratios, "sample"),
            "distill": KL * distillation_loss(masked.output, taught),
            "tokens": TOKENS * kept_distance(features, tokens[:, backbone.prefix :], masks[-1].detach()),
        }
        shares = {f"keep_{s}": mask.detach().mean() for s, mask in enumerate(masks, start=1)}
        return Terms(losses, shares)

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """The predictors are "modules"; CLS and positions are in no group."""
        pruned = self.student.pruned
        fixed = ("cls_token", "pos_embed")
        backbone = [p for name, p in pruned.backbone.vit.named_parameters() if name not in fixed]
        return {"modules": list(pruned.selectors.parameters()), "backbone": backbone}


def kept_distance(features: Tensor, taught: Tensor, mask: Tensor) -> Tensor:
    """Mean squared distance of features (B, N, D) over the tokens of mask (B, N)."""
    squared = (features - taught).square().mean(dim=-1)
    return (squared * mask).sum() / mask.sum().clamp(min=1)
