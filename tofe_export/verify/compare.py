"""Two outputs of the same images, compared image by image.

The unit is the range of the reference's own row, so that one limit serves logits, features and tokens of any
model. A row that is almost constant has no useful range: there the unit is a tenth of its largest
magnitude, because rounding errors scale with magnitude and not with range.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

FLAT_ROW = 0.1  # of the largest magnitude: the least unit of comparison


def span(reference: Array) -> Floats:
    """Unit of comparison per row: (n, ...) -> (n,), positive. NaN marks elements that do not exist."""
    rows = reference.reshape(len(reference), -1).astype(np.float64)
    unit = np.maximum(np.nanmax(rows, 1) - np.nanmin(rows, 1), FLAT_ROW * np.nanmax(np.abs(rows), 1))
    return np.where(unit > 0, unit, 1.0)


def errors(found: Array, expected: Array, unit: Floats | None = None) -> Floats:
    """|found - expected| in units of the expected row's range, or of `unit` (n,): (n, ...) -> (n, M).

    An element that neither side has (NaN on both) counts 0; one that only one side has, or that is not
    finite, counts infinite.
    """
    a = found.reshape(len(found), -1).astype(np.float64)
    b = expected.reshape(len(expected), -1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b) / (span(expected) if unit is None else unit)[:, None]
    difference[~np.isfinite(difference)] = np.inf
    difference[np.isnan(a) & np.isnan(b)] = 0.0
    return difference


def worst(found: Array, expected: Array, unit: Floats | None = None) -> Floats:
    """Largest error per image, as `errors`: (n, ...) -> (n,)."""
    largest: Floats = errors(found, expected, unit).max(axis=1)
    return largest


@dataclass(frozen=True)
class Agreement:
    """How n images agree; every field has one entry per image. `same_top1` and `top2_gap`: logits only."""

    worst: Floats  # max |d| / range
    mean: Floats  # mean |d| / range
    cosine: Floats
    same_top1: Bools | None
    top2_gap: Floats | None  # the reference's best minus its second best, / range

    @property
    def top1(self) -> float | None:
        """Share of images with the same best class."""
        return None if self.same_top1 is None else float(self.same_top1.mean())


def compare(found: Array, expected: Array, kind: str) -> Agreement:
    """Agreement of two arrays of one shape: "logits" (n, C), "features" (n, D) or "tokens" (n, N, D)."""
    error = errors(found, expected)
    same, gap = (None, None)
    if kind == "logits" and expected.shape[1] > 1:
        same = np.asarray(found.argmax(1) == expected.argmax(1))
        best = np.sort(expected.astype(np.float64), axis=1)
        gap = (best[:, -1] - best[:, -2]) / span(expected)
    return Agreement(error.max(1), error.mean(1), _cosine(found, expected), same, gap)


def _cosine(found: Array, expected: Array) -> Floats:
    a = found.reshape(len(found), -1).astype(np.float64)
    b = expected.reshape(len(expected), -1).astype(np.float64)
    with np.errstate(all="ignore"):
        norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosine: Floats = np.where(norm > 0, (a * b).sum(1) / np.where(norm > 0, norm, 1.0), (a == b).all(1))
    return cosine


def not_finite(array: Array) -> str | None:
    """What is not finite ("NaN in image 3"), or None: a verdict of its own, never a tolerance miss."""
    for index, row in enumerate(array):
        if not np.isfinite(row).all():
            return f"{'NaN' if np.isnan(row).any() else 'Inf'} in image {index}"
    return None
