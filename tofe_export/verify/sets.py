"""Kept sets of two runtimes, and whether rounding explains their difference.

Let e be the largest score error measured for an image and stage. If both sides keep the top K of their own
scores, then a token that dropped out and one that came in had reference scores at most 2e apart. So a swapped
token whose reference score is further than 2e from the cut was not swapped by rounding: the selection itself
is wrong. The cut of a static variant is the interval between the best frozen and the last kept token; the
cut of an adaptive one is its threshold (or the best score, where none reaches the threshold).

Only the first stage that differs is judged: behind it the two sides look at different tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tofe_export.verify.compare import Array, Bools, Floats, errors, span


@dataclass(frozen=True)
class Swap:
    """The first stage (0-based) at which an image's kept set differs from the reference's."""

    image: int
    stage: int
    lost: tuple[int, ...]  # spatial ids that the reference keeps
    gained: tuple[int, ...]  # spatial ids that the reference freezes
    distance: float  # of the furthest swapped token from the cut, in reference scores
    allowed: float  # twice the measured score error

    @property
    def explained(self) -> bool:
        """Whether rounding explains the swap (with room for float64's own rounding)."""
        return self.distance <= self.allowed * (1 + 1e-9)


def cut(scores: Array, kept: Bools, threshold: float | None) -> tuple[float, float]:
    """(low, high) edge of the cut of one image and stage; scores and kept are (N,)."""
    if threshold is not None:
        edge = min(threshold, float(np.nanmax(scores)))
        return edge, edge
    frozen = scores[~kept & ~np.isnan(scores)]
    last_kept = float(scores[kept].min())
    return (float(frozen.max()) if frozen.size else last_kept), last_kept


def margins(scores: Array, kept: Bools, thresholds: tuple[float, ...] | None) -> Floats:
    """Room at the cut, in units of the scores' range: (n, S, N) twice -> (n, S).

    Static: the last kept minus the best frozen score. Adaptive: the nearest score's distance from the cut.
    """
    room = np.zeros(scores.shape[:2])
    for i, s in np.ndindex(*room.shape):
        row = scores[i, s].astype(np.float64)
        low, high = cut(row, kept[i, s], thresholds[s] if thresholds else None)
        room[i, s] = high - low if thresholds is None else np.nanmin(np.abs(row - low))
    unit: Floats = np.stack([span(scores[:, s]) for s in range(scores.shape[1])], axis=1)
    return room / unit


def score_errors(found: Array, expected: Array) -> Floats:
    """Largest score error in units of the reference's range: (n, S, N) twice -> (n, S)."""
    return np.stack([errors(found[:, s], expected[:, s]).max(1) for s in range(found.shape[1])], axis=1)


def overlap(found: Bools, expected: Bools) -> Floats:
    """Share of the reference's kept tokens that were kept: (n, S, N) twice -> (n, S)."""
    share: Floats = (found & expected).sum(-1) / np.maximum(expected.sum(-1), 1)
    return share


def first_swaps(
    scores: Array,
    kept: Bools,
    found_scores: Array,
    found_kept: Bools,
    thresholds: tuple[float, ...] | None,
    limit: float,
) -> list[Swap | None]:
    """Per image the first difference, or None where all sets are equal. All arrays are (n, S, N).

    A score error beyond `limit` (of the scores' range) is a fault of its own and explains no more than that.
    """
    swaps: list[Swap | None] = []
    for i in range(len(kept)):
        differing = np.flatnonzero((kept[i] != found_kept[i]).any(-1))
        if not differing.size:
            swaps.append(None)
            continue
        s = int(differing[0])
        lost = np.flatnonzero(kept[i, s] & ~found_kept[i, s])
        gained = np.flatnonzero(~kept[i, s] & found_kept[i, s])
        row = scores[i, s].astype(np.float64)
        low, high = cut(row, kept[i, s], thresholds[s] if thresholds else None)
        away = np.nan_to_num(np.concatenate([row[lost] - low, high - row[gained]]), nan=np.inf)
        measured = np.nan_to_num(np.abs(found_scores[i, s].astype(np.float64) - row)).max()
        allowed = 2 * min(float(measured), limit * float(span(scores[[i], s])[0]))
        swaps.append(Swap(i, s, _ids(lost), _ids(gained), max(float(away.max()), 0.0), allowed))
    return swaps


def _ids(indices: Array) -> tuple[int, ...]:
    return tuple(int(index) for index in indices)
