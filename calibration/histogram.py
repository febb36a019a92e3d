"""How large the numbers of a tensor are, counted as they pass by, and where to cut them off.

The largest and the mean absolute value are always known; bins only where they are asked for.

Absolute values fall into 2048 equal bins from 0 on; when a larger one comes, the bins double in width until
it fits, so memory never grows and nothing is kept of the images. ONNX Runtime's calibrators were looked at
for this: they hold every tensor of all images of a pass, append bins without end when an outlier comes, and
look for the entropy threshold in loops that take seconds per tensor. What they compute is the same
(TensorRT's published method).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 2048
LEVELS = 128
"""Of the quantised distribution that the entropy method compares with."""
_STEP = 16
_SMOOTH = 1e-4
_FINEST = 1e-30
"""Smallest upper edge: 2048 / edge must be a float32 number."""

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]


class Histogram:
    """Counts of absolute values."""

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.limit = 0.0
        """Upper edge of the last bin; 0 while only zeros were seen."""
        self.largest = 0.0
        self._sum, self._size = 0.0, 0

    @property
    def mean(self) -> float:
        """Mean absolute value; 0 of nothing."""
        return self._sum / max(self._size, 1)

    def add(self, values: Array, *, bins: bool = True) -> None:
        """Take in finite numbers of any shape. Raises ValueError for others."""
        sizes = np.abs(values, dtype=np.float32).reshape(-1)
        top = float(sizes.max(initial=0.0))
        if not np.isfinite(top):
            raise ValueError("expected finite numbers, found NaN or infinity")
        self.largest = max(self.largest, top)
        self._sum += float(sizes.sum(dtype=np.float64))
        self._size += sizes.size
        if bins:
            self._count(sizes, top)

    def _count(self, sizes: Array, top: float) -> None:
        self._reach(top)
        if self.limit == 0.0:
            self.counts[0] += sizes.size
            return
        places = np.minimum(sizes * np.float32(BINS / self.limit), BINS - 1).astype(np.int32)
        self.counts += np.bincount(places, minlength=BINS)

    def percentile(self, percent: float) -> float:
        """The least edge below which `percent` per cent of the numbers lie."""
        share = np.cumsum(self.counts) / max(int(self.counts.sum()), 1)
        place = int(np.searchsorted(share, percent / 100.0))
        return min((min(place, BINS - 1) + 1) * self.limit / BINS, self.largest)

    def entropy(self) -> float:
        """The cut whose 128 levels tell least less than all bins, by Kullback and Leibler's divergence."""
        counts = self.counts.astype(np.float64)
        counts[0] = counts[1]  # zeros are exact whatever the scale
        cuts = range(LEVELS, BINS + 1, _STEP)
        if self.limit == 0.0 or counts.sum() == 0:
            return self.largest
        losses = [_divergence(counts, cut) for cut in cuts]
        return min(cuts[int(np.argmin(losses))] * self.limit / BINS, self.largest)

    def _reach(self, top: float) -> None:
        if self.limit == 0.0 and top > 0.0:
            self.limit = max(top, _FINEST)
        while self.limit < top:
            pairs = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.concatenate([pairs, np.zeros(BINS // 2, np.int64)])
            self.limit *= 2


def _divergence(counts: Floats, cut: int) -> float:
    """Of the numbers clipped to `cut` bins from the same in 128 levels."""
    inside = counts[:cut]
    clipped = inside.copy()
    clipped[-1] += counts[cut:].sum()
    level = np.arange(cut) * LEVELS // cut
    filled = inside > 0
    members = np.bincount(level, filled, LEVELS)
    mean = np.bincount(level, inside, LEVELS) / np.maximum(members, 1)
    levels = np.where(filled, mean[level], 0.0)
    seen = clipped > 0
    p = clipped[seen] / clipped.sum()
    q = np.maximum(levels[seen], _SMOOTH)
    q = q / max(levels.sum(), _SMOOTH)
    return float((p * np.log(p / q)).sum())
