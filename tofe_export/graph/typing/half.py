"""The two half precisions: how a float32 number is rounded to each, and what they can hold.

Rounding takes float32 arrays and gives float32 arrays, so that an evaluator can compute in float32 and store
in half precision. It is exact: to nearest, ties to even, overflow to infinity. PyTorch does it, with the
processor's own instructions: numpy has no bfloat16, and takes eight times as long for float16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

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

    @property
    def schema_type(self) -> str:
        """As in the type constraints of ONNX's schemas."""
        return f"tensor({self.name})"

    def round(self, values: npt.NDArray[Any]) -> Floats:
        """The nearest numbers of this precision, as float32."""
        return np.asarray(self._rounded(values).float().numpy())

    def encode(self, values: npt.NDArray[Any]) -> Bits:
        """The bit patterns of the nearest numbers of this precision; infinity where there is none."""
        import torch

        return np.asarray(self._rounded(values).view(torch.int16).numpy()).view(np.uint16)

    def decode(self, bits: Bits) -> Floats:
        """The numbers that the bit patterns stand for."""
        import torch

        held = torch.from_numpy(_writable(bits, np.uint16).view(np.int16))
        return np.asarray(held.view(getattr(torch, self.name)).float().numpy())

    def _rounded(self, values: npt.NDArray[Any]) -> torch.Tensor:
        import torch

        return torch.from_numpy(_writable(values, np.float32)).to(getattr(torch, self.name))


def _writable(values: npt.NDArray[Any], dtype: type[np.generic]) -> npt.NDArray[Any]:
    """The array as PyTorch may hold it: a copy of what is mapped from a file for reading only."""
    return np.require(np.asarray(values, dtype), requirements=("C", "W"))


HALVES: Mapping[str, Half] = {
    "fp16": Half("fp16", "float16", 10, 65504.0, 2.0**-14),
    "bf16": Half("bf16", "bfloat16", 16, float.fromhex("0x1.fep127"), 2.0**-126),
}
