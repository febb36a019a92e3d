"""Small helpers to read and write onnx-graphsurgeon graphs: emit a node, replace a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

FREEZE, THAW, RESTORE = "Freeze", "Thaw", "Restore"


class Emitter:
    """Adds nodes to a graph under one scope: `stage1.select/TopK`."""

    def __init__(self, graph: gs.Graph, scope: str) -> None:
        self.graph, self.scope = graph, scope
        self._names = {node.name for node in graph.nodes}
        self._names.update(tensor.name for tensor in (*graph.inputs, *graph.outputs))
        for node in graph.nodes:  # `graph.tensors()` takes three times as long, for every node replaced
            for tensors in (node.inputs, node.outputs):
                for tensor in tensors:
                    self._names.add(tensor.name)

    def __call__(self, op: str, *inputs: Any, dtype: Any = np.float32, count: int = 1, **attrs: Any) -> Any:  # noqa: ANN401 - gs has no types
        """Emit one node; returns its output, or a list of `count` outputs. Arrays become constants."""
        name = self._unique(f"{self.scope}/{op}")
        tensors = [self.constant(x) if isinstance(x, np.ndarray) else x for x in inputs]
        ends = [f"out{i}" for i in range(count)] if count > 1 else ["out"]
        outputs = [gs.Variable(f"{name}:{end}", dtype=dtype) for end in ends]
        self.graph.nodes.append(gs.Node(op, name, attrs=attrs, inputs=tensors, outputs=outputs))
        return outputs if count > 1 else outputs[0]

    def constant(self, values: npt.NDArray[Any]) -> gs.Constant:
        """Make a constant under this scope."""
        return gs.Constant(self._unique(f"{self.scope}/constant"), values)

    def reshape(self, x: gs.Tensor, *shape: int) -> gs.Variable:
        """Emit Reshape to a constant shape; 0 copies a dimension, -1 infers one."""
        return self("Reshape", x, int64(*shape), dtype=x.dtype)

    def slice(self, x: gs.Tensor, start: int, end: int, axis: int = 1) -> gs.Variable:
        """Emit Slice x[start:end] along `axis`, with INT32 parameters: one TensorRT layer instead of 33."""
        parameters = [np.array([v], np.int32) for v in (start, end, axis, 1)]
        return self("Slice", x, *parameters, dtype=x.dtype)

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        while unique in self._names:
            number += 1
            unique = f"{name}_{number}"
        self._names.add(unique)
        return unique


def int64(*values: int) -> npt.NDArray[np.int64]:
    """A one-dimensional INT64 array."""
    return np.array(values, np.int64)


def replace(graph: gs.Graph, old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every consumer of `old`, graph outputs included, read `new`."""
    for node in list(old.outputs):
        node.inputs = [new if tensor is old else tensor for tensor in node.inputs]
    if any(tensor is old for tensor in graph.outputs):
        graph.outputs = [new if tensor is old else tensor for tensor in graph.outputs]
        old.name, new.name = f"{old.name}/unused", old.name
        if isinstance(new, gs.Variable):
            new.dtype, new.shape = old.dtype, old.shape


def shaped(new: gs.Variable, old: gs.Variable) -> gs.Variable:
    """Hand the inferred type of the template's tensor on to its replacement."""
    new.shape, new.dtype = old.shape, old.dtype
    return new


def name_ids(emit: Emitter, ids: gs.Tensor, stage: int) -> None:
    """Publish the spatial ids of a stage's tokens as `ids_s`; without a reader it is cleaned up again.

    A copy, because without reuse the same tensor is already called `kept_s` of the stage before.
    """
    alias = emit("Identity", ids, dtype=np.int64)
    alias.name, alias.shape = f"ids_{stage + 1}", ids.shape


def template_nodes(graph: gs.Graph, *ops: str) -> list[gs.Node]:
    """Freeze, Thaw or Restore nodes of a template, in execution order."""
    return [node for node in graph.nodes if node.domain == "tofe" and node.op in ops]


def detach(nodes: Sequence[gs.Node]) -> None:
    """Cut nodes off, so that clean-up removes them."""
    for node in nodes:
        node.inputs, node.outputs = [], []
