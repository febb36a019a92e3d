"""From a bound graph, float32 or typed, to a finished INT8 one, and what must hold of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_graphsurgeon as gs

from tofe_export.errors import BuildFailed
from tofe_export.graph.bind import finish
from tofe_export.graph.passes.base import Pass, run
from tofe_export.graph.passes.quantize import QuantizePass
from tofe_export.graph.passes.upgrade_opset import UpgradeOpsetPass
from tofe_export.graph.quantizing.sites import Placement, is_weighted, place
from tofe_export.graph.quantizing.weights import Int8Weights, WeightSource, source_of
from tofe_export.graph.typing.islands import selector_nodes
from tofe_export.graph.typing.weights import is_external

READERS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True)
class Plan:
    """What of a float32 graph may be quantised, and the digests of the weights, by node name."""

    placement: Placement
    digests: Mapping[str, str]
    weights: Mapping[str, WeightSource] = field(repr=False)
    """By digest."""
    choosing: frozenset[str]
    """The selectors' nodes. Only the float32 graph tells: integers and halves would look like choices."""


def plan_for(model: onnx.ModelProto, folder: Path, *, stem: bool = False, half: bool = False) -> Plan:
    """Plan for a bound float32 graph, whose weights lie in `folder`; `half`: its typed form is quantised."""
    graph = _import(model)
    placement = place(graph, stem=stem, half=half)
    wanted = {site.node for site in placement.sites}
    digests, weights = {}, {}
    for node in graph.nodes:
        if node.name in wanted:
            source = source_of(node)
            digests[node.name] = digest = source.digest(folder)
            weights[digest] = source
    return Plan(placement, digests, weights, frozenset(selector_nodes(graph)))


def quantize_graph(
    model: onnx.ModelProto,
    ranges: Mapping[str, float],
    plan: Plan,
    weights: Int8Weights,
    metadata: Mapping[str, str],
) -> onnx.ModelProto:
    """Quantise the nodes named in `ranges`, by the plan for the float32 twin.

    A typed graph comes out with half-precision scales, at opset 19.

    Raises:
        BuildFailed: the result is not a valid INT8 graph: a bug here, never the user's fault.
    """
    known = {node.name for node in model.graph.node}
    if missing := sorted(set(ranges) - known):
        raise BuildFailed(
            f"{model.graph.name}: expected the nodes {', '.join(missing[:3])} of its float32 twin"
        )
    typed = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    passes: list[Pass] = [UpgradeOpsetPass()] if typed else []
    graph = _import(model)
    graph = run([*passes, QuantizePass(ranges, plan.digests, weights)], graph)
    made = finish(gs.export_onnx(graph, do_type_check=False), metadata)
    check_quantized(made, plan.choosing)
    return made


def check_quantized(model: onnx.ModelProto, choosing: Collection[str]) -> None:
    """Raise BuildFailed unless Q/DQ stand in front of products with weights and nowhere else.

    `choosing` are the selectors' nodes.
    """
    graph, found = _import(model), list[str]()
    ends = {id(tensor) for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        out = node.outputs[0]
        stored = node.op == "DequantizeLinear" and isinstance(node.inputs[0], gs.Constant)
        allowed = ("DequantizeLinear",) if node.op == "QuantizeLinear" else READERS
        place_of = 1 if stored else 0
        for reader in out.outputs:
            if reader.op not in allowed or reader.inputs[place_of] is not out:
                found.append(f"{node.name} feeds {reader.name} ({reader.op})")
            if reader.name in choosing:
                found.append(f"{node.name} feeds the selector's {reader.name}")
        if id(out) in ends or not out.outputs:
            found.append(f"{node.name} feeds {'the output' if id(out) in ends else 'nothing'}")
        if not _symmetric(node):
            found.append(f"{node.name}: its zero point is not 0 of INT8")
    if found:
        raise BuildFailed(f"the INT8 graph {graph.name} breaks {len(found)} rules: {'; '.join(found[:8])}")


def _symmetric(node: gs.Node) -> bool:
    """Whether the zero point is INT8: external ones are zeros by construction, inline ones are read."""
    if len(node.inputs) < 3 or not isinstance(node.inputs[2], gs.Constant):
        return False
    lazy = node.inputs[2]._values
    if hasattr(lazy, "tensor") and is_external(lazy.tensor):
        return bool(lazy.tensor.data_type == onnx.TensorProto.INT8)
    return node.inputs[2].values.dtype == "int8" and not node.inputs[2].values.any()


def quantized_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the products that read integers."""
    graph = _import(model)
    reads = [node for node in graph.nodes if node.op in READERS and node.inputs[1].inputs]
    return [node.name for node in reads if node.inputs[1].inputs[0].op == "DequantizeLinear"]


def floating_products(model: onnx.ModelProto) -> list[str]:
    """Names of the products with float weights."""
    return [node.name for node in _import(model).nodes if is_weighted(node)]


def _import(model: onnx.ModelProto) -> gs.Graph:
    """A graphsurgeon graph of a copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return gs.import_onnx(copy)
