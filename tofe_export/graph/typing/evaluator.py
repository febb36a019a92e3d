"""Compute a graph node by node and round every half tensor: what half precision does to it, on any machine.

ONNX Runtime's CPU provider keeps float32 between nodes of half precision, so it shows neither rounding nor
overflow (decision 12). Here each operator computes in float32, as tensor cores accumulate, and what it gives
is rounded to the type that the graph says; a number beyond the type becomes infinite, and the node that made
the first one is named. What it cannot show: kernels that accumulate in half precision, and what a compiler
fuses (which is rounded less often).

On a float32 graph nothing is rounded, and it measures how large every tensor gets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from tofe_export.graph.typing.half import HALVES, Half
from tofe_export.graph.typing.kernels import Kernel, Kernels
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


@dataclass(frozen=True)
class _Step:
    """One node: how it is computed, and which values nobody reads after it."""

    node: onnx.NodeProto
    kernel: Kernel
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, Half | None], ...]
    """Names, and what each is rounded to."""
    done_with: tuple[str, ...]


class Evaluator:
    """A graph ready to be computed; `folder` holds its weights files.

    `decoded` keeps half weights as float32, by their place in a file, for the next graph that reads them.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        kernels: Kernels | None = None,
        decoded: dict[str, Array] | None = None,
    ) -> None:
        self.graph = model.graph
        opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self._constants = {t.name: _constant(t, folder, decoded) for t in model.graph.initializer}
        self._steps = _steps(model, kernels or Kernels(opset))
        self.overflow: Overflow | None = None
        """The first one of all runs so far."""
        self.largest: dict[str, float] = {}
        """Largest absolute value so far of every float tensor that a node makes."""

    def run(self, feeds: Mapping[str, Array], *, measure: bool = False) -> dict[str, Array]:
        """Outputs for one set of inputs; with `measure` the size of every tensor is noted in `largest`."""
        values: dict[str, Array] = {**self._constants, **feeds}
        for step in self._steps:
            inputs = [values[name] for name in step.inputs]
            for (name, half), value in zip(step.outputs, step.kernel(inputs), strict=True):
                values[name] = rounded = value if half is None else half.round(value)
                if self.overflow is None and not _finite(rounded) and all(map(_finite, inputs)):
                    self.overflow = Overflow(step.node.name, step.node.op_type, name, _size(value))
                if measure and value.dtype == np.float32:
                    self.largest[name] = max(self.largest.get(name, 0.0), _size(value))
            for name in step.done_with:
                del values[name]
        return {output.name: values[output.name] for output in self.graph.output}


def _steps(model: onnx.ModelProto, kernels: Kernels) -> list[_Step]:
    """The nodes in order; a value is given up behind its last reader, constants and outputs never."""
    graph, types = model.graph, _types(model)
    kept = {tensor.name for tensor in graph.initializer} | {output.name for output in graph.output}
    last = {name: place for place, node in enumerate(graph.node) for name in (*node.output, *node.input)}
    done: dict[int, list[str]] = {}
    for name, place in last.items():
        if name and name not in kept:
            done.setdefault(place, []).append(name)
    return [
        _Step(
            node,
            kernels.prepare(node, types),
            tuple(name for name in node.input if name),
            tuple((name, ROUNDED.get(types[name])) for name in node.output if name),
            tuple(done.get(place, ())),
        )
        for place, node in enumerate(graph.node)
    ]


def _constant(tensor: TensorProto, folder: Path, decoded: dict[str, Array] | None) -> Array:
    half = ROUNDED.get(tensor.data_type)
    if half is None:
        return load(tensor, folder)
    if not is_external(tensor):
        return half.decode(_raw_bits(tensor))
    place = " ".join(f"{entry.key} {entry.value}" for entry in tensor.external_data)
    known = {} if decoded is None else decoded
    if place not in known:
        known[place] = half.decode(load(_as_bits(tensor), folder))
    return known[place].reshape(tuple(tensor.dims))


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
