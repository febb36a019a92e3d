"""Weights of a bound graph: reading them from the shared file, and their half copies in a second one.

The file of half weights holds a copy of every float weight of the template, in the template's order, whether
a variant needs it or not: so its content, and with it its name, depends on the weights alone, all variants
and later extensions share it, and float32 islands go on reading the float32 file. Weights beyond the range of
the type are left out, because the nodes that read them stay float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from tofe_export.files import writing
from tofe_export.graph.typing.half import Half

ALIGNMENT = 64
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class HalfWeights:
    """The second weights file: where the copy of each weight lies, by its offset in the float32 file."""

    half: Half
    file: str
    """Beside the graphs."""
    sha256: str
    bytes: int
    offsets: Mapping[int, int]

    def tensor(self, name: str, original: TensorProto) -> TensorProto | None:
        """The copy of an external float32 weight as external data; None where there is none."""
        offset = self.offsets.get(_place(original)[1])
        if offset is None:
            return None
        copy = TensorProto(name=name, data_type=self.half.onnx_type, dims=original.dims)
        copy.data_location = TensorProto.EXTERNAL
        size = prod(original.dims) * 2
        for key, value in (("location", self.file), ("offset", offset), ("length", size)):
            copy.external_data.add(key=key, value=str(value))
        return copy


def write_half_weights(model: onnx.ModelProto, folder: Path, half: Half) -> HalfWeights:
    """Write half copies of `model`'s external float32 weights to `folder`/weights-<sha256[:12]>.bin.

    Raises:
        WriteError: the file could not be written.
    """
    temporary, digest, position = folder / f"weights.{half.precision}.partial", hashlib.sha256(), 0
    offsets: dict[int, int] = {}
    with writing(temporary), temporary.open("wb") as file:
        for tensor in model.graph.initializer:
            if not is_external(tensor) or tensor.data_type != TensorProto.FLOAT:
                continue
            values = load(tensor, folder)
            if np.abs(values).max(initial=0.0) > half.largest:
                continue
            padding = -position % ALIGNMENT
            data = bytes(padding) + half.encode(values).tobytes()
            file.write(data)
            digest.update(data)
            offsets[_place(tensor)[1]] = position + padding
            position += len(data)
    sha256 = digest.hexdigest()
    name = f"weights-{sha256[:12]}.bin"
    with writing(folder / name):
        temporary.replace(folder / name)
    return HalfWeights(half, name, sha256, position, offsets)


def is_external(tensor: TensorProto) -> bool:
    """Whether the values lie in another file."""
    return bool(tensor.data_location == TensorProto.EXTERNAL)


def load(tensor: TensorProto, folder: Path) -> Array:
    """Values of an initializer, mapped into memory if they lie in a file beside the graph."""
    if not is_external(tensor):
        return onnx.numpy_helper.to_array(tensor)
    location, offset, length = _place(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    if length == 0:
        return np.zeros(tuple(tensor.dims), dtype)
    return np.memmap(folder / location, dtype, "r", offset, tuple(tensor.dims))


def files_of(model: onnx.ModelProto) -> set[str]:
    """Names of the weights files that a graph reads."""
    return {_place(tensor)[0] for tensor in model.graph.initializer if is_external(tensor)}


def largest_constants(model: onnx.ModelProto, folder: Path) -> dict[str, float]:
    """Largest absolute value of every float32 initializer, by name."""
    return {
        tensor.name: float(np.abs(load(tensor, folder)).max(initial=0.0))
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }


def _place(tensor: TensorProto) -> tuple[str, int, int]:
    """File, offset and length of external data."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    return entries["location"], int(entries.get("offset", 0)), int(entries["length"])
