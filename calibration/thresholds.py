"""Thresholds for `adaptive`: with them an image costs on average what the keep counts of a budget cost.

Each image then keeps as many tokens as score above the threshold. Making the mean *count* K_s is not enough:
Eq. 4 is convex, so images that differ cost more on average than the average image. Here the mean *cost* of
each stage is made that of K_s tokens, and the mean cost of an image is the static plan's, or just below.

Stages are settled one after the other, each behind the thresholds already found, in one pass over the
pictures each. A cost that is a second-degree polynomial of the count needs two sums per possible threshold,
the counts' and the squared counts'. Possible thresholds lie between neighbouring scores: between all of them
up to 2^14 scores, so that the result is exact, and beyond between 2^14 quantiles of the first ones, a
hundredth of a token apart. So memory does not grow with the number of pictures.

Shapes: B images in a batch, S stages, N patch tokens, G possible thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tofe_export.budget import Cost, macs, macs_of
from tofe_export.errors import InputError
from tofe_export.model.masked import Choose, above, masked_forward
from tofe_export.model.tofe import ToFe

GRID = 2**14
"""At most so many possible thresholds."""

_ROWS = 16  # images tabulated at once: 2 MB of counts at most

Images = Iterable[Tensor]
"""Batches (B, 3, H, W) on the model's device, the same in every pass."""


class Thresholds(NamedTuple):
    """What was found, and what it means on these images."""

    values: tuple[float, ...]
    """One score per stage: tokens at or above it are kept, the best one always."""
    keep_mean: tuple[float, ...]
    """Patch tokens that an image keeps on average."""
    gmacs_mean: float
    """What an image costs on average, in the paper's account."""
    images: int


class _Polynomial(NamedTuple):
    """Cost in MACs of n tokens in one stage, all others as planned: c0 + c1 n + c2 n^2."""

    c0: float
    c1: float
    c2: float

    @classmethod
    def of(cls, cost: Cost, keep: Sequence[int], stage: int) -> _Polynomial:
        at = [float(macs_of(cost, [*keep[:stage], n, *keep[stage + 1 :]])) for n in (0, 1, 2)]
        second = (at[2] - 2 * at[1] + at[0]) / 2
        return cls(at[0], at[1] - at[0] - second, second)

    def mean(self, n: Tensor, n_squared: Tensor) -> Tensor:
        """Mean cost from mean counts and mean squared counts."""
        return self.c0 + self.c1 * n + self.c2 * n_squared


class _Table:
    """Sums of counts and squared counts over images, for G possible thresholds in rising order."""

    def __init__(self, scores: Tensor) -> None:
        values = scores[scores.isfinite()].unique()  # sorted
        if len(values) > GRID - 1:
            values = values[torch.linspace(0, len(values) - 1, GRID - 1).round().long()]
        between = (values[:-1] + values[1:]) / 2
        self.cuts = torch.cat([values[:1] - 1, between, values[-1:] + 1])  # (G,) float32
        self.counts = torch.zeros(len(self.cuts), dtype=torch.float64)
        self.squares = torch.zeros_like(self.counts)
        self.images = 0

    def add(self, scores: Tensor) -> None:
        """Take in scores (B, N)."""
        for rising in scores.sort(dim=1).values.split(_ROWS):
            below = torch.searchsorted(rising, self.cuts.expand(len(rising), -1).contiguous())
            kept = (scores.shape[1] - below).clamp(min=1).double()  # (rows, G)
            self.counts += kept.sum(dim=0)
            self.squares += kept.square().sum(dim=0)
        self.images += len(scores)

    def settle(self, price: _Polynomial, keep: int) -> tuple[float, float, float]:
        """The lowest threshold with a mean cost of at most `keep` tokens': (it, mean count, mean cost)."""
        counts, squares = self.counts / self.images, self.squares / self.images
        costs = price.mean(counts, squares)
        affordable = costs <= price.mean(torch.tensor(float(keep)), torch.tensor(float(keep) ** 2)) + 0.5
        place = int(affordable.double().argmax())  # the first; costs never rise with the threshold
        return float(self.cuts[place]), float(counts[place]), float(costs[place])


def settle_thresholds(
    model: ToFe, images: Images, keep: Sequence[int], budget_gmacs: float | None, say: Callable[[str], None]
) -> Thresholds:
    """Thresholds whose mean cost on `images` is at most that of `keep`, and as near to it as they can be.

    `images` is gone through S times. A conditioned model works for `budget_gmacs`. `say` is told what is
    being done.

    Raises InputError where there are no images, ValueError where a pass gives another number of them.
    """
    if isinstance(images, Iterator):
        raise ValueError("images: expected what can be gone through several times, found an iterator")
    cost, found, means = model.cost(), list[float](), list[float]()
    total, seen = float(macs(cost, keep)), 0
    model.set_budget(budget_gmacs)
    for stage, count in enumerate(keep):
        say(f"thresholds, stage {stage + 1} of {len(keep)}")
        choose = above([*found, *[float("inf")] * (len(keep) - stage)])
        table = _tabulate(_scores(model, batch, choose, stage) for batch in images)
        if stage and table.images != seen:
            raise ValueError(f"expected the same {seen} images in every pass, found {table.images}")
        seen, price = table.images, _Polynomial.of(cost, keep, stage)
        threshold, mean, spent = table.settle(price, count)
        found.append(threshold)
        means.append(mean)
        total += spent - float(macs_of(cost, keep))
    return Thresholds(tuple(found), tuple(means), total / 1e9, seen)


def _tabulate(scores: Iterable[Tensor]) -> _Table:
    """One pass: the first scores, up to 2^14, say where thresholds may lie. Raises InputError for none."""
    first: list[Tensor] = []
    table: _Table | None = None
    for batch in scores:
        if table is None:
            first.append(batch)
            if sum(rows.numel() for rows in first) >= GRID:
                table = _table(first)
        else:
            table.add(batch)
    if table is None and first:
        table = _table(first)
    if table is None:
        raise InputError("no images to settle thresholds on: expected at least one batch")
    return table


def _table(first: Sequence[Tensor]) -> _Table:
    table = _Table(torch.cat(list(first)))
    for rows in first:
        table.add(rows)
    return table


@torch.inference_mode()
def _scores(model: ToFe, images: Tensor, choose: Choose, stage: int) -> Tensor:
    """One stage's scores (B, N) on the CPU, -inf for tokens that are gone for good."""
    stages = masked_forward(model, images, choose).stages
    scores = stages[stage].scores.float()
    if stage and not model.structure.reuse:
        scores = scores.masked_fill(stages[stage - 1].mask == 0, -torch.inf)
    return scores.cpu()
