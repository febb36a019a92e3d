"""Ways to split tokens into kept and frozen ones, and to bring the frozen ones back.

`ToFe.forward` is written once and asks a freezer; the freezer decides which tokens stay. Static (Algorithm
1, batch-adaptive), adaptive (instance-adaptive) and, for tracing, `graph.trace.TemplateFreezer` are the
same forward. Shapes: B batch, P prefix, N stage-entry patch tokens, K kept ones, D width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tofe_export.errors import InputError


class Split(NamedTuple):
    """Result of freezing."""

    kept: Tensor
    """(B, P + K, D): prefix and kept tokens."""
    frozen: Tensor
    """(B, F, D): the rows that a per-token approximator must see (here the N - K frozen ones)."""
    order: Tensor
    """(B, N): kept tokens first, then frozen ones, as indices into the stage-entry patch tokens."""
    stage: int


class Freezer(ABC):
    """Decides at each stage which patch tokens are processed."""

    @abstractmethod
    def freeze(self, x: Tensor, scores: Tensor, stage: int) -> Split:
        """Split stage-entry tokens x (B, P + N, D) by scores (B, N); `stage` counts from 0."""

    @abstractmethod
    def thaw(self, kept: Tensor, recovered: Tensor, split: Split, *, every_row: bool) -> Tensor:
        """Put kept tokens (B, P + K, D) and recovered ones back in stage-entry order: (B, P + N, D).

        `recovered` holds the approximated frozen rows in the order of `split.frozen`, or, if `every_row`,
        an approximation of all N patch tokens in stage-entry order of which only the frozen rows are used.
        """

    def restore(self, x: Tensor) -> Tensor:
        """Return tokens in spatial order; these freezers never leave it."""
        return x


class GatheringFreezer(Freezer):
    """Really leaves the frozen tokens out: rows are gathered, and come back by the inverse permutation."""

    @abstractmethod
    def count(self, scores: Tensor, stage: int) -> int:
        """K for these scores (B, N)."""

    def order(self, scores: Tensor) -> Tensor:
        """Kept tokens first: stable descending scores, the lowest index first among equals."""
        return scores.float().argsort(dim=1, descending=True, stable=True)

    def freeze(self, x: Tensor, scores: Tensor, stage: int) -> Split:
        """Split stage-entry tokens x (B, P + N, D) by scores (B, N)."""
        prefix = x.shape[1] - scores.shape[1]
        order, keep = self.order(scores), self.count(scores, stage)
        rows = _take(x[:, prefix:], order)
        return Split(torch.cat([x[:, :prefix], rows[:, :keep]], dim=1), rows[:, keep:], order, stage)

    def thaw(self, kept: Tensor, recovered: Tensor, split: Split, *, every_row: bool) -> Tensor:
        """Put kept and recovered tokens back in stage-entry order."""
        frozen = split.frozen.shape[1]
        prefix = kept.shape[1] + frozen - split.order.shape[1]
        if every_row:
            recovered = _take(recovered, split.order[:, split.order.shape[1] - frozen :])
        rows = torch.cat([kept[:, prefix:], recovered], dim=1)
        return torch.cat([kept[:, :prefix], _take(rows, split.order.argsort(dim=1))], dim=1)


class StaticFreezer(GatheringFreezer):
    """Keeps the K_s best tokens of every image: batch-adaptive ToFe, Algorithm 1 lines 11-13."""

    def __init__(self, keep: Sequence[int]) -> None:
        self.keep = tuple(keep)

    def count(self, scores: Tensor, stage: int) -> int:
        """K_s, the same for every image."""
        keep = self.keep[stage]
        if not 1 <= keep <= scores.shape[1]:
            raise InputError(f"stage {stage + 1} cannot keep {keep} of {scores.shape[1]} tokens")
        return keep


class AdaptiveFreezer(GatheringFreezer):
    """Keeps the tokens whose score reaches the threshold: instance-adaptive ToFe, one image at a time.

    The best token is always kept, so that no stage is empty: the cut is min(threshold, best score).
    """

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = tuple(thresholds)

    def count(self, scores: Tensor, stage: int) -> int:
        """Number of tokens at or above the cut."""
        if scores.shape[0] != 1:
            raise InputError(
                f"adaptive inference takes one image at a time, got a batch of {scores.shape[0]}"
            )
        cut = scores.float().amax().clamp(max=self.thresholds[stage])
        return int((scores.float() >= cut).sum())


class ForcedFreezer(GatheringFreezer):
    """Keeps given sets, whatever the scores: masks (B, N) of bool per stage, equally many in every image."""

    def __init__(self, masks: Sequence[Tensor]) -> None:
        self.masks = tuple(masks)

    def freeze(self, x: Tensor, scores: Tensor, stage: int) -> Split:
        """Split stage-entry tokens x (B, P + N, D) by this stage's mask."""
        return super().freeze(x, self.masks[stage].to(scores), stage)

    def count(self, scores: Tensor, stage: int) -> int:
        """Number of tokens in the mask."""
        counts = {int(n) for n in scores.sum(dim=1)}
        if len(counts) != 1:
            raise InputError(f"forced sets of one batch must have one size, got {sorted(counts)}")
        return counts.pop()


def _take(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, n, D) at index (B, k): (B, k, D)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


class StageRecord(NamedTuple):
    """What one stage decided, in spatial patch ids."""

    scores: Tensor
    """(B, N_s) one score per stage-entry token."""
    ids: Tensor
    """(B, N_s) the spatial id of each score."""
    kept: Tensor
    """(B, K_s) spatial ids of the kept tokens."""

    def spatial(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Scores (B, N), NaN where a token was not scored, and kept mask (B, N)."""
        batch = self.scores.shape[0]
        scores = torch.full((batch, tokens), float("nan")).scatter(1, self.ids, self.scores.float().cpu())
        kept = torch.zeros(batch, tokens, dtype=torch.bool).scatter(1, self.kept, True)
        return scores, kept
