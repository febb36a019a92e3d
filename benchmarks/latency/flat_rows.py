"""Let everything that works on single tokens work on rows (B * T, D) instead of tokens (B, T, D).

Linear layers, normalisations, activations and residual sums do not care which token a row is. As matrices,
products and their biases become one operator in ONNX Runtime without a Reshape before and after each, which
at batch 1 was one node in four. Only attention, gathers and joins see tokens. It was in the exported graphs
for a while, until it was measured: no gain (`rejected.py`).
"""

from __future__ import annotations

from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.graph.emit import int64
from tofe_export.graph.passes.base import Pass, PassResult

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Erf", "Sigmoid", "Tanh", "Relu")
_LAST_AXIS = (-1, 2)


class FlatRowsPass(Pass):
    """For graphs whose sizes are known; what is not known stays as it is."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Rewrite in place; the graph is sorted."""
        graph.toposort()
        flat: dict[int, gs.Variable] = {}  # by the tensor (B, T, D) that it stands for
        nodes: list[gs.Node] = []
        for node in list(graph.nodes):
            if _works_on_rows(node):
                nodes += _flatten(node, flat)
                continue
            for tensor in list(node.inputs):
                if id(tensor) not in flat:
                    continue
                if node.op == "Reshape" and tensor is node.inputs[0]:
                    node.inputs[0] = flat[id(tensor)]
                elif not tensor.inputs:
                    nodes.append(_reshape(flat[id(tensor)], tensor, f"{tensor.name}:tokens"))
            nodes.append(node)
        for tensor in graph.outputs:
            if id(tensor) in flat and not tensor.inputs:
                nodes.append(_reshape(flat[id(tensor)], tensor, f"{tensor.name}:tokens"))
        graph.nodes.clear()
        graph.nodes.extend(nodes)
        return PassResult(graph, bool(flat))


def _works_on_rows(node: gs.Node) -> bool:
    if not node.outputs or not _is_tokens(node.outputs[0]):
        return False
    first = node.inputs[0] if node.inputs else None
    if node.op == "MatMul":
        return (
            _is_tokens(first) and isinstance(node.inputs[1], gs.Constant) and len(node.inputs[1].shape) == 2
        )
    if node.op == "LayerNormalization":
        return _is_tokens(first) and node.attrs.get("axis", -1) in _LAST_AXIS
    if node.op not in _ELEMENTWISE:
        return False
    shape = node.outputs[0].shape
    return all(_per_column(t) if isinstance(t, gs.Constant) else t.shape == shape for t in node.inputs)


def _is_tokens(tensor: gs.Tensor | None) -> bool:
    """Whether a tensor is float (B, T, D) of known size."""
    if not isinstance(tensor, gs.Variable) or tensor.shape is None or tensor.dtype != np.float32:
        return False
    return len(tensor.shape) == 3 and all(isinstance(size, int) for size in tensor.shape)


def _per_column(constant: gs.Constant) -> bool:
    """Whether a constant is one number, or one per column."""
    return len(constant.shape) <= 1


def _flatten(node: gs.Node, flat: dict[int, gs.Variable]) -> list[gs.Node]:
    """Turn a node to rows; returns it behind the Reshapes that it needs."""
    before = []
    for i, tensor in enumerate(node.inputs):
        if not _is_tokens(tensor):
            continue
        if id(tensor) not in flat:
            rows = _rows_of(tensor)
            before.append(_reshape(tensor, rows, f"{tensor.name}:rows"))
            flat[id(tensor)] = rows
        node.inputs[i] = flat[id(tensor)]
    if node.op == "LayerNormalization":
        node.attrs["axis"] = -1
    result = node.outputs[0]
    flat[id(result)] = _rows_of(result)
    node.outputs = [flat[id(result)]]
    return [*before, node]


def _rows_of(tensor: gs.Variable) -> gs.Variable:
    *leading, width = tensor.shape
    return gs.Variable(f"{tensor.name}/rows", tensor.dtype, [prod(leading), width])


def _reshape(x: gs.Tensor, result: gs.Tensor, name: str) -> gs.Node:
    return gs.Node(
        "Reshape", name, inputs=[x, gs.Constant(f"{name}:shape", int64(*result.shape))], outputs=[result]
    )
