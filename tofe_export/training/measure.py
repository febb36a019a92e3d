"""What a trained model keeps: mean counts N^s for batches, thresholds for single images.

Batch-adaptive inference keeps N^s tokens in every image, the average that training arrives at (Sec. V), so
tokens are sampled here as there (Eq. 8-9). Instance-adaptive inference must not take the argmax of the same
scores: sampling keeps as many tokens as their probabilities add up to, the argmax as many as exceed one half,
which are fewer or more (decision 19 of token_reduction 3.2). Its thresholds are therefore calibrated so that
the mean count is N^s.

Everything runs the masked forward on whole batches, in evaluation mode and without gradients. Shapes: n
images in all, B in a batch, S stages, N patch tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise, product
from math import ceil, floor
from typing import NamedTuple

import torch
from torch import Tensor

from tofe_export.budget import Cost, gmacs, macs, printed
from tofe_export.errors import InputError
from tofe_export.model.masked import Choose, above, masked_forward, sampled
from tofe_export.model.tofe import ToFe
from tofe_export.training.batch import Batch
from tofe_export.training.losses import cost_per_image


class Counts(NamedTuple):
    """What sampling keeps on average."""

    keep_mean: tuple[float, ...]
    """N^1..N^S: mean patch tokens kept per image."""
    gmacs_mean: float
    """Mean cost of an image; slightly above the cost of the mean counts, as Eq. 4 is convex."""
    images: int


def measure_counts(model: ToFe, batches: Iterable[Batch], budget_gmacs: float | None) -> Counts:
    """Average what `model` keeps at a budget, each batch sampled with its own noise as in training.

    Raises InputError if there are no images.
    """
    cost, kept, spent, images = model.cost(), torch.zeros(model.stages, dtype=torch.float64), 0.0, 0
    with _measuring(model, budget_gmacs) as device:
        for batch in batches:
            masked = masked_forward(model, batch.images.to(device), sampled(batch.noise.to(device)))
            masks = [stage.mask.double().cpu() for stage in masked.stages]
            kept += torch.stack([mask.sum() for mask in masks])
            spent += float(cost_per_image(cost, masks).sum())
            images += len(batch.images)
    if not images:
        raise InputError("no images to measure keep counts on: expected at least one batch")
    return Counts(tuple((kept / images).tolist()), spent / images / 1e9, images)


def round_counts(cost: Cost, counts: Counts, budget_gmacs: float | None = None) -> tuple[int, ...]:
    """Whole counts, each the mean rounded up or down, whose cost is nearest to the mean cost.

    Among those within the budget, if any are: a mean that a fraction of a token lifts over it stays usable as
    it is. Where small models have few tokens, rounding each mean by itself would miss the cost by percents.
    """
    limit = float("inf") if budget_gmacs is None else float(printed(budget_gmacs))
    choices = [{_whole(floor(mean), cost), _whole(ceil(mean), cost)} for mean in counts.keep_mean]
    candidates = [keep for keep in product(*choices) if cost.reuse or _falls(keep)]

    def rank(keep: tuple[int, ...]) -> tuple[bool, float, float]:
        price = gmacs(macs(cost, keep))
        away = sum(abs(count - mean) for count, mean in zip(keep, counts.keep_mean, strict=True))
        return float(printed(price)) > limit, abs(price - counts.gmacs_mean), away

    return min(candidates, key=rank)


def calibrate_thresholds(
    model: ToFe, batches: Iterable[Batch], keep: Sequence[int], budget_gmacs: float | None = None
) -> tuple[float, ...]:
    """Score thresholds with which these images keep K_1 .. K_S tokens on average, the best one always.

    Stages are settled one after the other, each behind the thresholds already found: `batches` is gone
    through S times and must give the same images each time (a list, or a loader without random transforms).
    The cut lies half way between the scores that are in and those that are out, as in
    `model.references.thresholds_on`.

    Raises InputError if there are no images, ValueError if a pass gives another number of them or there can
    be only one.
    """
    if isinstance(batches, Iterator):
        raise ValueError("batches: expected what can be gone through several times, found an iterator")
    found: list[float] = []
    images = 0
    with _measuring(model, budget_gmacs) as device:
        for stage, count in enumerate(keep):
            choose = above([*found, *[float("inf")] * (len(keep) - stage)])
            scores = [_scores(model, batch.images.to(device), choose, stage) for batch in batches]
            if not scores:
                raise InputError("no images to calibrate thresholds on: expected at least one batch")
            rows = torch.cat(scores)  # (n, N)
            if stage and len(rows) != images:
                raise ValueError(f"expected the same {images} images in every pass, found {len(rows)}")
            images = len(rows)
            found.append(_threshold(rows, count))
    return tuple(found)


def _scores(model: ToFe, images: Tensor, choose: Choose, stage: int) -> Tensor:
    """One stage's scores (B, N) on the CPU, -inf for tokens that are gone for good."""
    stages = masked_forward(model, images, choose).stages
    scores = stages[stage].scores.float()
    if stage and not model.structure.reuse:
        scores = scores.masked_fill(stages[stage - 1].mask == 0, -torch.inf)
    return scores.cpu()


def _threshold(scores: Tensor, keep: int) -> float:
    """The cut through scores (n, N) that leaves n * keep of them, where each row's best is in anyway."""
    others = scores.sort(dim=1, descending=True).values[:, 1:].flatten()
    others = others[others.isfinite()].sort(descending=True).values
    wanted = len(scores) * (keep - 1)
    if wanted == 0 or len(others) == 0:
        return float(scores.amax())  # nothing but the best
    if wanted >= len(others):
        return float(others[-1] - 1)
    return float((others[wanted - 1] + others[wanted]) / 2)


def _whole(count: int, cost: Cost) -> int:
    """`count`, at least 1 and at most N."""
    return max(1, min(count, cost.tokens))


def _falls(keep: Sequence[int]) -> bool:
    """Whether no count is above the one before."""
    return all(later <= earlier for earlier, later in pairwise(keep))


@contextmanager
def _measuring(model: ToFe, budget_gmacs: float | None) -> Iterator[torch.device]:
    """Evaluation mode, the budget set, no gradients; yields the model's device, gives the mode back."""
    training = model.training
    model.eval()
    model.set_budget(budget_gmacs)
    try:
        with torch.inference_mode():
            yield next(model.parameters()).device
    finally:
        model.train(training)
