"""Scales: reach the largest value, exist in float16, are never zero."""

from __future__ import annotations

import numpy as np
import pytest

from tofe_export.graph.quantizing.scales import LEAST, quantize, scales_for


@pytest.mark.parametrize("largest", [0.0, 1e-9, 1e-3, 0.3333, 1.0, 7.7, 1234.5, 8e6])
def test_a_scale_reaches_the_largest_value_and_is_a_half(largest: float) -> None:
    scale = float(scales_for(largest))
    assert scale * 127 >= largest
    assert scale == float(np.float16(scale)) >= LEAST
    assert scale <= max(largest / 127 * (1 + 2**-10), LEAST)


@pytest.mark.parametrize("largest", [-1.0, np.nan, np.inf, 1e8])
def test_what_no_scale_reaches_is_refused(largest: float) -> None:
    with pytest.raises(ValueError, match="expected magnitudes"):
        scales_for(largest)


def test_integers_are_at_most_half_a_step_off() -> None:
    weights = np.random.RandomState(0).standard_normal((40, 7)).astype(np.float32) * np.logspace(-3, 1, 7)
    integers, scales = quantize(weights, axis=1)
    assert integers.dtype == np.int8
    assert scales.shape == (7,)
    assert np.abs(integers).max() <= 127
    assert (np.abs(integers * scales - weights) <= 0.5001 * scales).all()


def test_channels_are_those_of_the_axis() -> None:
    weights = np.stack([np.full((3, 2, 2), 1.0), np.full((3, 2, 2), 100.0)]).astype(np.float32)
    integers, scales = quantize(weights, axis=0)
    assert scales[1] == pytest.approx(100 * scales[0], rel=2e-3)
    assert (np.abs(integers) >= 126).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    integers, scales = quantize(np.zeros((4, 2), np.float32), axis=1)
    assert not integers.any()
    assert (scales == LEAST).all()
