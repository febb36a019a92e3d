"""The loss terms of Eq. 15 as pure functions, and two that the paper's neighbours use.

Masks and costs are tensors with gradients: through the straight-through masks every term reaches the
selectors. Terms are unweighted, computed in float32 at least whatever the surroundings compute in, and each
is a mean over the images at hand, so that averaging gradients over processes gives the mean over all images.
One term needs more: the *square of a mean* is not the mean of squares, so a budget or ratio loss on batch
means takes `reduce`, the mean over processes (`global_mean`).

Shapes: B images, S stages, N patch tokens, D width, C classes. Costs are MACs per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from tofe_export.budget import Cost, macs_of
from tofe_export.model.masked import MaskedStage

Mean = Literal["batch", "sample"]
"""Of squared errors: the square of the mean error (Eq. 13), or the mean of squares (Eq. 14)."""
Reduce = Callable[[Tensor], Tensor]
"""The mean of a detached tensor over all processes."""


def identity(value: Tensor) -> Tensor:
    """`Reduce` of a single process."""
    return value


def global_mean(value: Tensor, reduce: Reduce = identity) -> Tensor:
    """`value` averaged over all processes, with the gradient of this process's own part.

    The gradients that the processes then average are those of a function of the global mean.
    """
    local = value.detach()
    return value + (reduce(local) - local)


def classification_loss(output: Tensor, targets: Tensor) -> Tensor:
    """Eq. 11: cross-entropy of the final logits (B, C); targets are indices (B,) or probabilities (B, C)."""
    if targets.is_floating_point():
        targets = _full(targets)
    return functional.cross_entropy(_full(output), targets)


def approximation_loss(stages: Sequence[MaskedStage], teacher_tokens: Sequence[Tensor]) -> Tensor:
    """Eq. 10: mean squared distance of recovered tokens from the teacher's, over the frozen ones.

    The mean runs over an image's frozen tokens and over D, then stages 1..S-1 are summed and images averaged;
    an image that freezes nothing adds nothing (decision 15 of token_reduction 3.2). `teacher_tokens` are the
    teacher's patch tokens (B, N, D) at the inputs of blocks l_2..l_S. Without reuse nothing is recovered: 0.

    Raises ValueError unless there is one teacher tensor per recovering stage.
    """
    recovering = [(stage.mask, stage.recovered) for stage in stages if stage.recovered is not None]
    if len(recovering) != len(teacher_tokens):
        raise ValueError(
            f"expected teacher tokens for {len(recovering)} recovering stages, found {len(teacher_tokens)}"
        )
    total = _full(stages[0].mask).new_zeros(())
    for (mask, recovered), taught in zip(recovering, teacher_tokens, strict=True):
        squared = (_full(recovered) - _full(taught)).square().mean(dim=-1)  # (B, N)
        frozen = 1 - _full(mask)
        per_image = (frozen * squared).sum(dim=1) / frozen.sum(dim=1).clamp(min=1)
        total = total + per_image.mean()
    return total


def cost_per_image(cost: Cost, masks: Sequence[Tensor]) -> Tensor:
    """What each image costs under S masks (B, N), in the paper's account that budgets mean: (B,) MACs."""
    return macs_of(cost, [_full(mask).sum(dim=1) for mask in masks])


def budget_errors(macs: Tensor, budget_gmacs: float, unit_macs: float) -> Tensor:
    """How far each image's cost (B,) lies above the budget, in units of `unit_macs`.

    Units: the dense model's MACs for a relative error, 1e9 for the paper's GFLOPs.
    """
    return (macs - budget_gmacs * 1e9) / unit_macs


def budget_loss(errors: Tensor, mean: Mean = "batch", reduce: Reduce = identity) -> Tensor:
    """Eq. 13's constraint as a penalty on the mean error, or Eq. 14 on each image's: errors (B,)."""
    if mean == "sample":
        return errors.square().mean()
    return global_mean(errors.mean(), reduce).square()


def ratio_loss(
    masks: Sequence[Tensor], ratios: Sequence[float], mean: Mean = "batch", reduce: Reduce = identity
) -> Tensor:
    """Squared distance of each stage's kept share from its target, averaged over stages (Table V's rival).

    With "sample" this is DynamicViT's loss, which its authors weight with 2.

    Raises ValueError unless there is one ratio per stage.
    """
    if len(masks) != len(ratios):
        raise ValueError(f"expected {len(masks)} keep ratios, one per stage, found {len(ratios)}")
    terms = [
        budget_loss(_full(mask).mean(dim=1) - ratio, mean, reduce)
        for mask, ratio in zip(masks, ratios, strict=True)
    ]
    return torch.stack(terms).mean()


def distillation_loss(output: Tensor, taught: Tensor) -> Tensor:
    """KL(teacher || student) of logits (B, C), the mean over images: DynamicViT's, an option here."""
    ours, theirs = _full(output).log_softmax(dim=-1), _full(taught).log_softmax(dim=-1)
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def _full(x: Tensor) -> Tensor:
    """`x` in float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
