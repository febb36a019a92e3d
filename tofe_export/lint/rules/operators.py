"""Whether the parser has the operator at all, and for these element types.

The importers look an operator up by name alone and then among plugins, so a foreign domain is no excuse: it
needs a plugin of that name, and TensorRT's own library has those that end in `_TRT`. A type that the table
does not list may still pass the parser and fail, or be wrong, in the builder; it counts as an error because
NVIDIA promises nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tofe_export.lint.findings import Finding
from tofe_export.lint.matrix import Matrix, Row
from tofe_export.lint.rules.rule import Says, says
from tofe_export.lint.targets import Target
from tofe_export.lint.view import ONNX_DOMAINS, View

if TYPE_CHECKING:
    from onnx import NodeProto

MENDS = {
    "Attention": "export attention as MatMul, Softmax and MatMul with the scale on Q (opset 22 or older)",
    "BitwiseAnd": "use And, Or, Not on BOOL, or integer arithmetic",
    "Compress": "select with TopK and a constant K, or with Where",
    "Gelu": "export at opset 19 or older: GELU is then made of Erf, which TensorRT recognises",
    "LayerNormalization": "decompose it, or use a newer TensorRT",
    "RMSNormalization": "export at opset 22 or older: it is then made of simple operators",
    "RotaryEmbedding": "export at opset 22 or older: it is then made of simple operators",
    "Unique": "select with TopK and a constant K, or move the step out of the graph",
}
_GENERIC = "replace it by operators of the matrix, or export at an older opset"
NO_ROW = "no row in the operator tables of this TensorRT line (docs/operators.md of onnx-tensorrt)"
# Which tensors a row's types are about: inputs, else outputs; the first input where nothing is said.
INPUTS = {"Where": (1,), "OneHot": (2,), "Shape": (), "Size": (), "Loop": (), "Scan": (), "If": ()}
OUTPUTS = {
    **{"Constant": (0,), "ConstantOfShape": (0,), "Cast": (0,), "CastLike": (0,), "EyeLike": (0,)},
    **{"Range": (0,), "RandomNormal": (0,), "RandomUniform": (0,)},
}
_NO_INPUT = ("Constant", "ConstantOfShape", "EyeLike", "RandomNormal", "RandomUniform")
_UINT8 = Says(
    "type",
    "onnx-tensorrt importer sources, 8.6-GA and 10.1-GA: UINT8 only at network inputs and outputs",
    "derived",
)
_UINT8_CAST = Says(
    "type",
    "NvInfer.h, DataType::kUINT8: conversion from and to FLOAT and HALF only (operator pages list more)",
    "exact",
    "warning",
)


def operator(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Operators of ONNX's domain without a row, or with a row that refuses them."""
    for node in view.of_onnx():
        row = matrix.operator(target, node.op_type)
        if (row is not None and row.types) or (node.domain, node.op_type) in view.functions:
            continue
        mend = MENDS.get(node.op_type, _GENERIC)
        if row is not None:
            yield says("operator", row).at(view, node, f"{node.op_type} is not supported", mend)
        elif is_plugin(node.op_type):
            yield _plugin("operator", view, node)
        else:
            known = Says("operator", NO_ROW, "derived")
            yield known.at(view, node, f"the parser does not know {node.op_type}", mend)


def domain(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Custom and contrib operators, and local functions where the parser has none."""
    functions = Says("domain", "onnx-tensorrt Changelog.md: local functions since 9.0", "exact")
    foreign = Says("domain", "onnx-tensorrt importers: looked up by name, then among plugins", "derived")
    for node in view.nodes:
        if (node.domain, node.op_type) in view.functions:
            if target.within("8.6", "9.0"):
                message = f"{node.op_type} is a local function of the model"
                yield functions.at(view, node, message, "inline functions (onnx.inliner) before export")
        elif node.domain not in ONNX_DOMAINS and is_plugin(node.op_type):
            yield _plugin("domain", view, node)
        elif node.domain not in ONNX_DOMAINS:
            message = f"{node.domain}.{node.op_type} is no ONNX operator; it would need a plugin of that name"
            mend = "export with ONNX's own operators only; keep files that a runtime optimised apart"
            yield foreign.at(view, node, message, mend)


def element_type(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Types that the operator's row does not list. Unknown types are left alone."""
    for node in view.of_onnx():
        row = matrix.operator(target, node.op_type)
        if row is None or not row.types:
            continue
        for name in dict.fromkeys(_tensors(node)):
            found = view.type_of(name)
            if found is None or _listed(found, row, target) or _is_left_to_quantization(node, found):
                continue
            message = f"{node.op_type} with {found} ({name}); listed are {', '.join(row.types)}"
            yield says("type", row).at(view, node, message, _mend(found))
        for name in node.output:
            if (
                view.type_of(name) == "UINT8"
                and name not in view.outputs
                and node.op_type != "QuantizeLinear"
            ):
                message = f"{name} is UINT8 between nodes"
                yield _UINT8.at(view, node, message, "cast UINT8 inputs first, to UINT8 only at an output")
        if node.op_type == "Cast" and (pair := _uint8_cast(view, node)):
            yield _UINT8_CAST.at(view, node, pair, "cast UINT8 from and to FP32 or FP16, and on from there")


def _uint8_cast(view: View, node: NodeProto) -> str | None:
    """What a Cast makes of UINT8 or UINT8 of, where that is neither FP32 nor FP16."""
    read, made = view.type_of(node.input[0]), view.type_of(node.output[0])
    other = made if read == "UINT8" else read if made == "UINT8" else None
    return None if other in (None, "FP32", "FP16") else f"{read} is cast to {made}"


def is_plugin(operator: str) -> bool:
    """Whether the name is one of TensorRT's own plugins."""
    return operator.endswith("_TRT") or operator.startswith("TRT_")


def _plugin(rule: str, view: View, node: NodeProto) -> Finding:
    known = Says(rule, "onnx-tensorrt importers: looked up by name, then among plugins", "derived", "warning")
    message = f"{node.op_type} needs TensorRT's plugin library (libnvinfer_plugin) at build and run time"
    return known.at(view, node, message, "make sure that the library of that version has it")


def _tensors(node: NodeProto) -> list[str]:
    default = () if node.op_type in _NO_INPUT else (0,)
    inputs = INPUTS.get(node.op_type, default)
    names = [node.input[i] for i in inputs if i < len(node.input)]
    names += [node.output[i] for i in OUTPUTS.get(node.op_type, ()) if i < len(node.output)]
    return [name for name in names if name]


def _listed(found: str, row: Row, target: Target) -> bool:
    as_seen = {"DOUBLE": "FP32"}.get(found, found)
    if as_seen == "INT64" and target.within("8.6", "9.0"):
        as_seen = "INT32"  # narrowed when the file is read
    return as_seen in row.types


def _is_left_to_quantization(node: NodeProto, found: str) -> bool:
    return found == "UINT8" and node.op_type in ("QuantizeLinear", "DequantizeLinear")


def _mend(found: str) -> str:
    if found in ("INT8", "FP8", "INT4", "FP4"):
        return f"keep {found} between QuantizeLinear and DequantizeLinear, and compute on what comes out"
    return "put a Cast before it, to a type of the list"
