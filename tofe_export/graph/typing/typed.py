"""From a bound float32 graph to a finished typed one, and what must hold of it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto
from onnx_graphsurgeon.logger import G_LOGGER

from tofe_export.errors import BuildFailed
from tofe_export.graph.bind import finish
from tofe_export.graph.passes.base import run
from tofe_export.graph.passes.type_graph import TypeGraphPass
from tofe_export.graph.typing.assign import float32_nodes
from tofe_export.graph.typing.half import Half
from tofe_export.graph.typing.islands import hold_float32
from tofe_export.graph.typing.nodes import NORMS
from tofe_export.graph.typing.weights import HalfWeights


def held_by_name(model: onnx.ModelProto) -> list[str]:
    """Nodes of a bound float32 graph that a weakly typed build must hold in float32."""
    return hold_float32(_import(model))


def type_graph(
    model: onnx.ModelProto,
    half: Half,
    required: Mapping[str, str],
    weights: HalfWeights | None,
    metadata: Mapping[str, str],
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The typed graph of a bound float32 graph, and all its float32 nodes with their reasons.

    Raises:
        BuildFailed: the result is not a valid typed graph: a bug here, never the user's fault.
    """
    return type_imported(_import(model), half, required, weights, metadata)


def type_imported(
    graph: gs.Graph,
    half: Half,
    required: Mapping[str, str],
    weights: HalfWeights | None,
    metadata: Mapping[str, str],
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The same of a graph that was imported already, and that nobody else needs."""
    float32 = float32_nodes(graph, required)
    with G_LOGGER.suppress(G_LOGGER.ERROR):  # it warns of every bfloat16 constant, which it need not read
        graph = run([TypeGraphPass(half, float32, weights)], graph)
    typed = finish(gs.export_onnx(graph, do_type_check=False), metadata)
    check_typed(typed, half)
    return typed, float32


def check_typed(model: onnx.ModelProto, half: Half) -> None:
    """Raise BuildFailed unless inputs, outputs, choices and norms are float32 and every Cast is needed."""
    graph, found = model.graph, []
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    makers = {name: node for node in graph.node for name in node.output}
    half_types = {TensorProto.FLOAT16, TensorProto.BFLOAT16}
    ends = (*graph.input, *graph.output)
    found += [f"{end.name} is {half.name}" for end in ends if types[end.name] in half_types]
    seen: set[tuple[str, int]] = set()
    for node in graph.node:
        if node.op_type in (*NORMS, "TopK") and types.get(node.input[0]) in half_types:
            found.append(f"{node.name} reads {half.name}")
        if node.op_type != "Cast":
            continue
        to = int(node.attribute[0].i)
        maker = makers.get(node.input[0])
        if maker is not None and maker.op_type == "Cast" and half_types & {to, types[node.input[0]]}:
            found.append(f"{node.name} follows the Cast {maker.name}")
        if (node.input[0], to) in seen:
            found.append(f"{node.name} casts {node.input[0]} a second time")
        seen.add((node.input[0], to))
    if found:
        raise BuildFailed(f"the typed graph {graph.name} breaks {len(found)} rules: {'; '.join(found[:8])}")


def _import(model: onnx.ModelProto) -> gs.Graph:
    """A graphsurgeon graph of a copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return gs.import_onnx(copy)
