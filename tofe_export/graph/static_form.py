"""What every graph that leaves this project must satisfy, whatever passes made it.

These are the rules of a static graph (decisions 3-5), checked on the finished file; the operator support of
single TensorRT versions is another matter.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from tofe_export.errors import BuildFailed
from tofe_export.graph.passes.bind_sizes import DYNAMIC_BATCH

OPSETS = (17, 18, 19, 20)
FORBIDDEN = (
    *("Shape", "Size", "Range", "Expand", "ConstantOfShape"),  # shape arithmetic at run time
    *("If", "Loop", "Scan", "NonZero", "GatherElements"),
)
TOPK_LIMIT = 3840


def check_static(model: onnx.ModelProto, *, adaptive: bool, dynamic_batch: bool) -> None:
    """Raise BuildFailed, with every finding, unless `model` is static.

    `adaptive` graphs are dynamic by nature: only their form is checked, not their shapes.
    """
    findings = [*_form(model)]
    if not adaptive:
        findings += [*_forbidden(model), *_shapes(model, {DYNAMIC_BATCH} if dynamic_batch else set())]
    if findings:
        shown = "; ".join(findings[:8])
        raise BuildFailed(f"the graph {model.graph.name} breaks {len(findings)} rules: {shown}")


def _forbidden(model: onnx.ModelProto) -> list[str]:
    return [f"{n.name} is a {n.op_type}" for n in model.graph.node if n.op_type in FORBIDDEN]


def _form(model: onnx.ModelProto) -> list[str]:
    """Opset, domains, names, attributes and constant parameters."""
    opsets = {o.domain: o.version for o in model.opset_import}
    found = [] if set(opsets) == {""} and opsets[""] in OPSETS else [f"opset imports are {opsets}"]
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.domain:
            found.append(f"{node.name} is {node.domain}.{node.op_type}")
        if not node.name or not all(node.output):
            found.append(f"a {node.op_type} has no name, or an output without one")
        if node.op_type.startswith("Scatter") and any(a.name == "reduction" for a in node.attribute):
            found.append(f"{node.name} carries the attribute `reduction`")
        if node.op_type == "TopK" and not _topk_fits(constants.get(node.input[1])):
            found.append(f"{node.name} needs a constant K below {TOPK_LIMIT}")
        if node.op_type == "Slice":
            types = {constants[i].data_type if i in constants else None for i in node.input[1:]}
            if types != {TensorProto.INT32}:
                found.append(f"{node.name} has parameters other than constant INT32")
    return found


def _topk_fits(k: TensorProto | None) -> bool:
    return k is not None and int(onnx.numpy_helper.to_array(k)[0]) < TOPK_LIMIT


def _shapes(model: onnx.ModelProto, symbols: set[str]) -> list[str]:
    """Every dimension of every tensor is a number, or the batch."""
    graph, found = model.graph, []
    known = {v.name for v in (*graph.value_info, *graph.input, *graph.output)}
    missing = [o for node in graph.node for o in node.output if o not in known]
    if missing:
        found.append(f"no shape is known for {', '.join(missing[:3])}")
    for value in (*graph.value_info, *graph.input, *graph.output):
        found += [
            f"{value.name} has a size {size.dim_param or 'unknown'!r}"
            for size in value.type.tensor_type.shape.dim
            if not size.HasField("dim_value") and size.dim_param not in symbols
        ]
    return found
