"""Compute a graph node by node and round every half tensor: what half precision does to it, on any machine.

ONNX Runtime's CPU provider keeps float32 between nodes of half precision, so it shows neither rounding nor
overflow (decision 12). Here each operator computes in float32, as tensor cores accumulate, and what it gives
is rounded to the type that the graph says; a number beyond the type becomes infinite, and the node that made
the first one is named. What it cannot show: kernels that accumulate in half precision, and what a compiler
fuses (which is rounded less often).

On a float32 graph nothing is rounded, and it measures how large every tensor gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from tofe_export.graph.typing.half import HALVES, Half
from tofe_export.graph.typing.kernels import Kernels
from tofe_export.graph.typing.weights import is_external, load

Array = npt.NDArray[Any]
ROUNDED: Mapping[int, Half] = {half.onnx_type: half for half in HALVES.values()}


@dataclass(frozen=True)
class Overflow:
    """The first number that is not finite, made of numbers that are."""

    node: str
    operator: str
    tensor: str
    magnitude: float
    """Before it was rounded; infinite or NaN if the operator itself gave that."""

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}) gives {self.magnitude:.1e}"


class Evaluator:
    """A graph ready to be computed; `folder` holds its weights files."""

    def __init__(self, model: onnx.ModelProto, folder: Path, kernels: Kernels | None = None) -> None:
        self.graph = model.graph
        opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self._kernels = kernels or Kernels(opset)
        self._types = _types(model)
        self._constants = {t.name: self._constant(t, folder) for t in model.graph.initializer}
        self.overflow: Overflow | None = None
        """The first one of all runs so far."""
        self.largest: dict[str, float] = {}
        """Largest absolute value so far of every float tensor that a node makes."""

    def run(self, feeds: Mapping[str, Array], *, measure: bool = False) -> dict[str, Array]:
        """Outputs for one set of inputs; with `measure` the size of every tensor is noted in `largest`."""
        values: dict[str, Array] = {**self._constants, **feeds}
        left = Counter(name for node in self.graph.node for name in node.input)
        left.update(output.name for output in self.graph.output)
        for node in self.graph.node:
            inputs = [values[name] for name in node.input if name]
            made = self._kernels.run(node, inputs, self._types)
            for name, value in zip([o for o in node.output if o], made, strict=True):
                values[name] = self._round(node, name, value, inputs)
                if measure and value.dtype == np.float32:
                    self.largest[name] = max(self.largest.get(name, 0.0), _size(value))
            for name in set(node.input):
                left[name] -= list(node.input).count(name)
                if not left[name] and name not in self._constants:
                    values.pop(name, None)
        return {output.name: values[output.name] for output in self.graph.output}

    def _round(self, node: onnx.NodeProto, name: str, value: Array, inputs: list[Array]) -> Array:
        half = ROUNDED.get(self._types[name])
        rounded = value if half is None else half.round(value)
        if self.overflow is None and not _finite(rounded) and all(map(_finite, inputs)):
            self.overflow = Overflow(node.name, node.op_type, name, _size(value))
        return rounded

    def _constant(self, tensor: TensorProto, folder: Path) -> Array:
        half = ROUNDED.get(tensor.data_type)
        if half is None:
            return load(tensor, folder)
        bits = load(_as_bits(tensor), folder) if is_external(tensor) else _raw_bits(tensor)
        return half.decode(np.asarray(bits))


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor."""
    graph = model.graph
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    values = (*graph.value_info, *graph.input, *graph.output)
    return types | {value.name: int(value.type.tensor_type.elem_type) for value in values}


def _as_bits(tensor: TensorProto) -> TensorProto:
    bits = TensorProto()
    bits.CopyFrom(tensor)
    bits.data_type = TensorProto.UINT16
    return bits


def _raw_bits(tensor: TensorProto) -> npt.NDArray[np.uint16]:
    return np.frombuffer(tensor.raw_data, np.uint16).reshape(tuple(tensor.dims))


def _finite(value: Array) -> bool:
    return value.dtype != np.float32 or bool(np.isfinite(value).all())


def _size(value: Array) -> float:
    """Largest absolute value; NaN if there is one."""
    return float(max(value.max(initial=0.0), -value.min(initial=0.0)))
