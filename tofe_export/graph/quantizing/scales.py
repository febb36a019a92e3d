"""Scales, and numbers on them: symmetric, 127 steps to either side, zero point 0.

Every scale is a number that float16 has, so that the float32 and the half-precision form of a graph compute
on the same integers and share them. It is rounded up, or the largest value would be cut off, and it is never
below float16's smallest normal number: TensorRT refuses a scale that it reads as 0 ("Scale coefficients must
all be positive").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.int8]

LEVELS = 127
LEAST = float(np.finfo(np.float16).tiny)
"""Smallest scale: 2^-14."""
LARGEST = float(np.finfo(np.float16).max)
WIDEST = LEVELS * LARGEST
"""Largest magnitude that a scale reaches."""


def scales_for(largest: Array | float) -> Floats:
    """Scales that reach `largest` (absolute values): float32 numbers that float16 has, too.

    Raises ValueError for what is negative, not finite, or beyond 127 times float16's range.
    """
    wanted = np.asarray(largest, np.float64) / LEVELS
    if not np.all(np.isfinite(wanted) & (wanted >= 0) & (wanted <= LARGEST)):
        raise ValueError(f"expected magnitudes from 0 to {WIDEST:.1e}, found {largest}")
    near = np.maximum(wanted, LEAST).astype(np.float16)
    up = np.nextafter(near, np.float16(np.inf))
    fits: Floats = np.where(near.astype(np.float64) >= wanted, near, up).astype(np.float32)
    return fits


def quantize(values: Array, axis: int) -> tuple[Bytes, Floats]:
    """Integers of `values`, and one scale per channel along `axis`."""
    others = tuple(place for place in range(values.ndim) if place != axis)
    scales = scales_for(np.abs(values).max(axis=others, initial=0.0))
    shape = [1] * values.ndim
    shape[axis] = -1
    steps = np.rint(values / scales.reshape(shape))
    return np.clip(steps, -LEVELS, LEVELS).astype(np.int8), scales
