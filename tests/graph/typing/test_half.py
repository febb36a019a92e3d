"""Rounding to half precision, against numpy's float16 and ml_dtypes' bfloat16."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tofe_export.graph.typing.half import HALVES, Half

TYPES = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
EDGES = [0.0, -0.0, 1.0, 2**-24, 2**-25, 2**-25 * 1.001, 2**-14, 65504.0, 65519.9, 65520.0, np.inf, -np.inf]
TIES = [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, float.fromhex("0x1.ffp127"), 3.4e38]


def numbers() -> npt.NDArray[np.float32]:
    random = np.random.default_rng(0)
    bits = random.integers(0, 2**32, 200_000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return np.concatenate([bits, np.array([*EDGES, *TIES, *(-v for v in TIES)], np.float32)])


@pytest.mark.parametrize("precision", HALVES)
@np.errstate(over="ignore", invalid="ignore")
def test_rounds_as_the_types_do(precision: str) -> None:
    half, values = HALVES[precision], numbers()
    expected = values.astype(TYPES[precision]).astype(np.float32)
    rounded = half.round(values)
    np.testing.assert_array_equal(rounded, expected)
    assert rounded.dtype == np.float32
    real = ~np.isnan(values)
    np.testing.assert_array_equal(
        half.encode(values)[real], values.astype(TYPES[precision]).view(np.uint16)[real]
    )
    np.testing.assert_array_equal(half.round(rounded), rounded)


@pytest.mark.parametrize("precision", HALVES)
def test_facts_are_the_types(precision: str) -> None:
    half: Half = HALVES[precision]
    facts: Any = ml_dtypes.finfo(TYPES[precision])  # type: ignore[no-untyped-call]  # ml_dtypes' own lack
    assert half.precision == precision
    assert (half.largest, half.smallest_normal) == (float(facts.max), float(facts.smallest_normal))
    assert half.name.upper() == onnx.TensorProto.DataType.Name(half.onnx_type)
    above = half.largest * 1.0035  # more than half a step
    assert np.isinf(half.round(np.array(above, np.float32)))
    assert np.isfinite(half.round(np.array(half.largest, np.float32)))


@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
@pytest.mark.parametrize("precision", HALVES)
def test_keeps_shapes(precision: str, shape: tuple[int, ...]) -> None:
    assert HALVES[precision].round(np.full(shape, 0.1, np.float32)).shape == shape
