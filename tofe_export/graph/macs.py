"""Count the multiply-accumulates of a finished graph from its MatMul, Gemm and Conv nodes.

An account of its own, from the file alone, against which the manifest's `gmacs_executed` is checked before
a variant is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import onnx


def count_macs(model: onnx.ModelProto, batch: int = 1) -> int:
    """MACs of one image: all MatMul, Gemm and Conv nodes of `batch` images, divided by `batch`.

    Shapes must have been inferred; a symbolic size is the batch.
    """
    return sum(macs_by_node(model, batch).values()) // batch


def macs_by_node(model: onnx.ModelProto, batch: int = 1) -> dict[str, int]:
    """MACs of all `batch` images per MatMul, Gemm and Conv, by the node's name."""
    shapes = _shapes(model, batch)
    found = {node.name: _node_macs(node, shapes) for node in model.graph.node}
    return {name: macs for name, macs in found.items() if macs}


def _node_macs(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> int:
    if node.op_type in ("MatMul", "Gemm"):
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        inner = shapes[node.input[0]][-2 if transposed else -1]
        return prod(shapes[node.output[0]]) * inner
    if node.op_type == "Conv":
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    return 0


def _shapes(model: onnx.ModelProto, batch: int) -> dict[str, list[int]]:
    graph = model.graph
    shapes = {t.name: list(t.dims) for t in graph.initializer}
    for value in (*graph.value_info, *graph.input, *graph.output):
        sizes = value.type.tensor_type.shape.dim
        shapes[value.name] = [d.dim_value if d.HasField("dim_value") else batch for d in sizes]
    return shapes
