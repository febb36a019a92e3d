"""INT8 copies of weights in a file that all INT8 graphs of a bundle share, each with its scales.

A weight is known by its content: rewritings may name, transpose or cut it as they like. The file holds every
weight that some graph may quantise, left out there or not, sorted by content; so what is in it, and with it
its name, depends on the weights alone. Beside the integers lie the scales, in float32 and in float16 (the
same numbers), and one row of zero points. TensorRT reads weights stored so (DequantizeLinear without
QuantizeLinear) as it reads float32 ones with a pair of both, at a quarter of the size.

Layout: a MatMul's or Gemm's weight is (K, N) with one scale per column, a Conv's (C_out, C_in, h, w) with one
per output channel.
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
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from tofe_export.files import sha256_bytes, writing
from tofe_export.graph.quantizing.scales import quantize
from tofe_export.graph.typing.weights import is_external, load

ALIGNMENT = 64
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Int8Weight:
    """Where a weight lies in the file: offsets of the integers and of both kinds of scales."""

    dims: tuple[int, ...]
    axis: int
    """Of the channels."""
    offset: int
    scales: int
    half_scales: int


@dataclass(frozen=True)
class Int8Weights:
    """The file beside the graphs, and what is in it by the digest of the float32 weight."""

    file: str
    sha256: str
    bytes: int
    zeros: int
    """Offset of the zero points."""
    entries: Mapping[str, Int8Weight]

    def tensors(self, digest: str, name: str, *, half: bool) -> tuple[TensorProto, TensorProto, TensorProto]:
        """Integers, scales and zero points of a weight, as external data called after `name`."""
        entry = self.entries[digest]
        channels = (entry.dims[entry.axis],)
        kind, place = (TensorProto.FLOAT16, entry.half_scales) if half else (TensorProto.FLOAT, entry.scales)
        size = 2 if half else 4
        return (
            self._tensor(f"{name}:int8", TensorProto.INT8, entry.dims, entry.offset, 1),
            self._tensor(f"{name}:scales", kind, channels, place, size),
            self._tensor(f"{name}:zeros", TensorProto.INT8, channels, self.zeros, 1),
        )

    def _tensor(self, name: str, kind: int, dims: tuple[int, ...], offset: int, size: int) -> TensorProto:
        tensor = TensorProto(name=name, data_type=kind, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self.file), ("offset", offset), ("length", prod(dims) * size)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor


@dataclass(frozen=True)
class WeightSource:
    """Where a float32 weight is, and how it lies there."""

    tensor: TensorProto
    transposed: bool
    axis: int
    """Of the channels, in the layout of the INT8 file."""

    def load(self, folder: Path) -> Array:
        """The weight in the layout of the INT8 file."""
        values = read_tensor(self.tensor, folder)
        return np.ascontiguousarray(values.T if self.transposed else values)

    def digest(self, folder: Path) -> str:
        """What the weight is known by."""
        values = self.load(folder)
        return sha256_bytes(f"{values.shape} {self.axis} ".encode() + values.tobytes())


def source_of(node: gs.Node) -> WeightSource:
    """The float32 weight of a weighted node."""
    lazy = node.inputs[1]._values  # the public attribute would load external data from the current directory
    is_lazy = isinstance(lazy, LazyValues)
    tensor = lazy.tensor if is_lazy else onnx.numpy_helper.from_array(np.asarray(lazy), node.inputs[1].name)
    transposed = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
    return WeightSource(tensor, transposed, 0 if node.op == "Conv" else 1)


def write_int8_weights(weights: Mapping[str, WeightSource], folder: Path) -> Int8Weights:
    """Write INT8 copies of weights, by digest, to `folder`/weights-<sha256[:12]>.bin.

    Raises:
        WriteError: the file could not be written.
    """
    temporary = folder / "weights.int8.partial"
    entries: dict[str, Int8Weight] = {}
    with writing(temporary), temporary.open("wb") as stream:
        file = _Blocks(stream)
        channels = max((max(source.tensor.dims) for source in weights.values()), default=0)
        zeros = file.add(np.zeros(channels, np.int8))
        for digest in sorted(weights):
            values, axis = weights[digest].load(folder), weights[digest].axis
            integers, scales = quantize(values, axis)
            places = [file.add(block) for block in (integers, scales, scales.astype(np.float16))]
            entries[digest] = Int8Weight(tuple(values.shape), axis, *places)
    sha256 = file.digest.hexdigest()
    name = f"weights-{sha256[:12]}.bin"
    with writing(folder / name):
        temporary.replace(folder / name)
    return Int8Weights(name, sha256, file.position, zeros, entries)


class _Blocks:
    """Appends aligned arrays and hashes them."""

    def __init__(self, stream: Any) -> None:  # noqa: ANN401 - a binary file
        self._stream, self.position, self.digest = stream, 0, hashlib.sha256()

    def add(self, block: Array) -> int:
        """Write an array; returns its offset."""
        padding = -self.position % ALIGNMENT
        data = bytes(padding) + np.ascontiguousarray(block).tobytes()
        self._stream.write(data)
        self.digest.update(data)
        start = self.position + padding
        self.position += len(data)
        return start


def read_tensor(tensor: TensorProto, folder: Path) -> Array:
    """Values of any initializer, inline or external."""
    return load(tensor, folder) if is_external(tensor) else np.asarray(onnx.numpy_helper.to_array(tensor))
