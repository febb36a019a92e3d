"""The two half precisions: how a float32 number is rounded to each, and what they can hold.

Rounding takes float32 arrays and gives float32 arrays, so that an evaluator can compute in float32 and store
in half precision. It is exact: to nearest, ties to even, overflow to infinity. numpy has no bfloat16, which
is the upper half of a float32's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Half:
    """A half precision."""

    precision: str
    """As in variants' names."""
    name: str
    """As in the names of Casts and casted tensors."""
    onnx_type: int
    """onnx.TensorProto.DataType."""
    largest: float
    smallest_normal: float
    encode: Callable[[Floats], Bits]
    """The bit patterns of the nearest numbers of this precision; infinity where there is none."""
    decode: Callable[[Bits], Floats]

    @property
    def schema_type(self) -> str:
        """As in the type constraints of ONNX's schemas."""
        return f"tensor({self.name})"

    def round(self, values: npt.NDArray[Any]) -> Floats:
        """The nearest numbers of this precision, as float32."""
        return np.asarray(self.decode(self.encode(np.asarray(values, np.float32))))


def _float16_bits(values: Floats) -> Bits:
    with np.errstate(over="ignore"):
        bits: Bits = values.astype(np.float16).view(np.uint16)
    return bits


def _from_float16(bits: Bits) -> Floats:
    return bits.view(np.float16).astype(np.float32)


def _bfloat16_bits(values: Floats) -> Bits:
    """Add half of a step, a little less at even numbers, and cut: the carry runs into the exponent."""
    bits = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    upper: Bits = ((bits + odd + np.uint32(0x7FFF)) >> np.uint32(16)).astype(np.uint16)
    nan = np.isnan(values).reshape(-1)
    upper[nan] = 0x7FC0  # the carry could make a number of it
    return upper.reshape(values.shape)


def _from_bfloat16(bits: Bits) -> Floats:
    return np.asarray(bits.astype(np.uint32) << np.uint32(16)).view(np.float32)  # of a scalar, too


HALVES: Mapping[str, Half] = {
    "fp16": Half("fp16", "float16", 10, 65504.0, 2.0**-14, _float16_bits, _from_float16),
    "bf16": Half(
        "bf16", "bfloat16", 16, float.fromhex("0x1.fep127"), 2.0**-126, _bfloat16_bits, _from_bfloat16
    ),
}
