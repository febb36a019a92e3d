"""A graph as a list of steps: each node's kernel, how its outputs are rounded, what is read last there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

from tofe_export.graph.typing.half import HALVES, Half
from tofe_export.graph.typing.kernels import Kernel, Kernels

ROUNDED: Mapping[int, Half] = {half.onnx_type: half for half in HALVES.values()}


@dataclass(frozen=True)
class Step:
    """One node: how it is computed, and which values nobody reads after it."""

    node: onnx.NodeProto
    kernel: Kernel
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, Half | None], ...]
    """Names, and what each is rounded to."""
    done_with: tuple[str, ...]


def steps_of(model: onnx.ModelProto, kernels: Kernels) -> list[Step]:
    """The nodes in order; a value is given up behind its last reader, constants and outputs never."""
    graph, types = model.graph, _types(model)
    kept = {tensor.name for tensor in graph.initializer} | {output.name for output in graph.output}
    last = {name: place for place, node in enumerate(graph.node) for name in (*node.output, *node.input)}
    done: dict[int, list[str]] = {}
    for name, place in last.items():
        if name and name not in kept:
            done.setdefault(place, []).append(name)
    return [
        Step(
            node,
            kernels.prepare(node, types),
            tuple(name for name in node.input if name),
            tuple((name, ROUNDED.get(types[name])) for name in node.output if name),
            tuple(done.get(place, ())),
        )
        for place, node in enumerate(graph.node)
    ]


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor."""
    graph = model.graph
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    values = (*graph.value_info, *graph.input, *graph.output)
    return types | {value.name: int(value.type.tensor_type.elem_type) for value in values}
