"""Compute a graph node by node and round every half tensor: what half precision does to it, on any machine.

ONNX Runtime's CPU provider keeps float32 between nodes of half precision, so it shows neither rounding nor
overflow (decision 12). Here each operator computes in float32, as tensor cores accumulate, and what it gives
is rounded to the type that the graph says; a number beyond the type becomes infinite, and the node that made
the first one is named. What it cannot show: kernels that accumulate in half precision, and what a compiler
fuses (which is rounded less often).

On a float32 graph nothing is rounded, and it measures how large every tensor gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from tofe_export.graph.typing.common import Beginning, Common, Result
from tofe_export.graph.typing.kernels import Kernels
from tofe_export.graph.typing.steps import ROUNDED, Step, steps_of
from tofe_export.graph.typing.weights import is_external, load

Array = npt.NDArray[Any]


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
    """A graph ready to be computed; `folder` holds its weights files.

    `decoded` keeps half weights as float32, by their place in a file, for the next graph that reads them, and
    `common` what graphs begin with, for the next graph that begins so.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path,
        kernels: Kernels | None = None,
        decoded: dict[str, Array] | None = None,
        common: Common | None = None,
    ) -> None:
        self.graph = model.graph
        opset = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
        self._constants = {t.name: _constant(t, folder, decoded) for t in model.graph.initializer}
        self._steps = steps_of(model, kernels or Kernels(opset))
        self._beginning = Beginning(model.graph, self._steps)
        self._common = common or Common()
        self.overflow: Overflow | None = None
        """The first one of all runs so far."""
        self.largest: dict[str, float] = {}
        """Largest absolute value so far of every float tensor that a node makes."""

    def run(self, feeds: Mapping[str, Array], *, measure: bool = False) -> dict[str, Array]:
        """Outputs for one set of inputs; with `measure` the size of every tensor is noted in `largest`."""
        values: dict[str, Array] = {**self._constants, **feeds}
        recalled = self._beginning.recall(feeds, self._common, measured=measure)
        for place, step in enumerate(self._steps):
            results = recalled.get(place)
            if results is None:
                results = _compute(step, [values[name] for name in step.inputs], measure)
                recalled.add(place, results)
            self._take(step, results, values)
            for name in step.done_with:
                values.pop(name, None)
        return {output.name: values[output.name] for output in self.graph.output}

    def _take(self, step: Step, results: Sequence[Result], values: dict[str, Array]) -> None:
        """Note what a step gave, now or on the same image in another graph."""
        for (name, _), result in zip(step.outputs, results, strict=True):
            if result.value is not None:
                values[name] = result.value
            if result.overflow is not None and self.overflow is None:
                self.overflow = Overflow(step.node.name, step.node.op_type, name, result.overflow)
            if result.size is not None:
                self.largest[name] = max(self.largest.get(name, 0.0), result.size)


def _compute(step: Step, inputs: Sequence[Array], measure: bool) -> list[Result]:
    """Run a node's kernel and round what it gives."""
    results = []
    for (_, half), value in zip(step.outputs, step.kernel(inputs), strict=True):
        rounded = value if half is None else half.round(value)
        lost = not _finite(rounded) and all(map(_finite, inputs))
        size = _size(value) if measure and value.dtype == np.float32 else None
        results.append(Result(rounded, size, _size(value) if lost else None))
    return results


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
