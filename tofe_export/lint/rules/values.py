"""Constants and types that are legal and still cost accuracy, speed, or the sight of other rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tofe_export.lint.findings import Finding
from tofe_export.lint.matrix import Matrix
from tofe_export.lint.rules.rule import Says
from tofe_export.lint.targets import Target
from tofe_export.lint.view import View

if TYPE_CHECKING:
    from onnx import NodeProto

_NAN = Says("not-finite", "arithmetic: it spreads to the output", "exact", "warning")
_INF = Says("not-finite", "arithmetic: softmax over a row of -inf is NaN", "exact", "advice")
_DOUBLE = Says("narrowed", "onnx-tensorrt operators.md: DOUBLE is cast down to FP32", "exact", "advice")
_INT64 = Says("narrowed", "onnx-tensorrt Changelog.md 9.0: INT64 becomes INT32 before", "exact", "advice")
_LAYERNORM = Says(
    "half-layernorm", "github.com/NVIDIA/TensorRT issues 1262, 2564, 3101, 3657", "derived", "advice"
)
_SLICE = Says(
    "int64-slice", "onnx-tensorrt 10.1-GA importers, run: 33 layers instead of 1", "measured", "advice"
)
_SHAPE = Says("unknown-shape", "shape inference of the onnx package", "exact", "advice")
_INT32_MAX = 2**31 - 1


def not_finite(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Small constants of the file with NaN or infinities, at the first node that reads them."""
    made = [output for node in view.nodes if node.op_type == "Constant" for output in node.output]
    for name in (*view.initializers, *made):
        node = view.consumers.get(name, [None])[0]
        if node is None or view.type_of(name) not in ("FP32", "FP16", "DOUBLE"):
            continue
        values = view.value(name)
        if values is None:
            continue
        if np.isnan(values).any():
            yield _NAN.at(
                view, node, f"the constant {name} holds NaN", "export from a model with finite weights"
            )
        elif np.isinf(values).any():
            mend = "use a large finite number, such as -1e4, in masks"
            yield _INF.at(view, node, f"the constant {name} holds infinity", mend)


def narrowed(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Graph inputs and outputs whose type changes on the way into the engine."""
    if view.path:
        return
    for kind, names in (("input", view.inputs), ("output", view.outputs)):
        for name in names:
            found = view.type_of(name)
            if found == "DOUBLE":
                yield _DOUBLE.on(name, kind, "DOUBLE becomes FP32", "export in float32")
            elif found == "INT64" and target.within("8.6", "9.0"):
                mend = "size buffers from the engine's types, not from the graph's"
                yield _INT64.on(name, kind, "INT64 becomes INT32", mend)


def half_layernorm(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Squares in half precision that are averaged next: variance, which overflows above 255."""
    for node in view.of_onnx():
        if not _is_square(view, node) or view.type_of(node.input[0]) != "FP16":
            continue
        if any(reader.op_type == "ReduceMean" for reader in view.consumers.get(node.output[0], [])):
            message = f"{node.input[0]} is squared in FP16 and averaged: values above 255 overflow"
            mend = "export at opset 17 with LayerNormalization, or cast to FP32 around it"
            yield _LAYERNORM.at(view, node, message, mend)


def int64_slice(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Slice parameters that are INT64, where INT64 is a type of its own."""
    if not target.within("10.0"):
        return
    for node in view.of_onnx():
        if node.op_type == "Slice" and any(view.type_of(name) == "INT64" for name in node.input[1:] if name):
            message = "INT64 parameters become about 33 layers of shape arithmetic"
            yield _SLICE.at(view, node, message, "make starts, ends, axes and steps all INT32: one layer")


def unknown_shape(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """The first tensor of which nothing is known, with how many more there are."""
    if view.is_function:
        return
    unknown = [
        (node, output)
        for node in view.nodes
        for output in node.output
        if output and (view.type_of(output) is None or view.shape_of(output) is None)
    ]
    if unknown:
        node, output = unknown[0]
        more = f" and of {len(unknown) - 1} more tensors" if len(unknown) > 1 else ""
        message = f"type or shape of {output}{more} is unknown: types cannot be checked there"
        yield _SHAPE.at(view, node, message, "store shapes in the file (symbolic shape inference)")


def _is_square(view: View, node: NodeProto) -> bool:
    if node.op_type == "Mul":
        return len(node.input) == 2 and node.input[0] == node.input[1]
    if node.op_type != "Pow":
        return False
    exponent = view.value(node.input[1])
    return exponent is not None and exponent.size == 1 and float(exponent.flat[0]) == 2.0
