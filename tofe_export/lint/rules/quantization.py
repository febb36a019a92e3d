"""QuantizeLinear and DequantizeLinear as TensorRT takes them: symmetric, INT8, FP32 scales or half ones.

ONNX's default output of QuantizeLinear without a zero point is UINT8; 8.6 stops there, later parsers silently
make it INT8, with another range.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tofe_export.lint.findings import Finding
from tofe_export.lint.matrix import Matrix
from tofe_export.lint.rules.rule import Says
from tofe_export.lint.targets import Target
from tofe_export.lint.view import View, attribute

if TYPE_CHECKING:
    from onnx import NodeProto

_ZERO = Says("zero-point", "onnx-tensorrt operators.md: the zero point must be 0", "exact")
_ZERO_RUN = Says("zero-point", "onnx-tensorrt operators.md; 10.1-GA importers, run", "measured")
_MISSING = Says("zero-point", "onnx-tensorrt 8.6-GA importer sources: three inputs are read", "exact")
_UINT8 = Says("uint8-quantization", "onnx-tensorrt 8.6-GA and 10.1-GA importer sources", "derived")
_SCALE = Says("half-scale", "the ONNX standard; onnx.checker refuses them", "exact")
_SCALE_OLD = Says("half-scale", "onnx-tensorrt 8.6-GA importer sources: scales are read as FP32", "exact")
_CHANNEL = Says(
    "per-channel-activation",
    "onnx-tensorrt 8.6-GA importer sources: per-axis only for weights",
    "derived",
    "warning",
)
_SYMMETRIC = "quantise symmetrically, to INT8 with zero point 0"


def zero_point(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Zero points that are known and not 0, and missing ones on 8.6."""
    for node in _nodes(view):
        point = node.input[2] if len(node.input) > 2 else ""
        values = view.value(point) if point else None
        if values is not None and _is_not_zero(values.tobytes()):
            known = _ZERO_RUN if target.within("10.0", "10.4") else _ZERO
            yield known.at(view, node, f"the zero point ({point}) is not 0", _SYMMETRIC)
        if not point and target.within("8.6", "9.0"):
            yield _MISSING.at(view, node, "no zero point is given", "add an INT8 zero point of 0")


def uint8(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """UINT8 data, zero points, or the UINT8 that ONNX means where nothing is said."""
    for node in _nodes(view):
        names = [node.input[0], *node.input[2:3]]
        if node.op_type == "QuantizeLinear":
            names = [node.output[0], *node.input[2:3]]
        if any(view.type_of(name) == "UINT8" for name in names if name):
            yield _UINT8.at(view, node, "UINT8 quantisation; TensorRT has INT8", _SYMMETRIC)
        elif node.op_type == "QuantizeLinear" and len(node.input) < 3 and not attribute(node, "output_dtype"):
            message = "without a zero point ONNX means UINT8, and TensorRT makes INT8"
            yield _UINT8.at(view, node, message, _SYMMETRIC)


def scales(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Scales of FP16 or BF16 below opset 19 and on 8.6."""
    for node in _nodes(view):
        found = view.type_of(node.input[1])
        if found not in ("FP16", "BF16"):
            continue
        if view.opset < 19:
            message = f"the scale is {found}, which opset {view.opset} does not have"
            yield _SCALE.at(view, node, message, "use FP32 scales, or opset 19")
        elif target.within("8.6", "9.0"):
            message = f"the scale is {found} and is read as if it were FP32"
            yield _SCALE_OLD.at(view, node, message, "use FP32 scales")


def per_channel(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """QuantizeLinear of something computed, with more than one scale."""
    for node in _nodes(view):
        sizes = view.shape_of(node.input[1])
        many = sizes is not None and any(isinstance(size, int) and size > 1 for size in sizes)
        if node.op_type == "QuantizeLinear" and many and not view.is_constant(node.input[0]):
            message = f"{node.input[0]} is computed and has a scale per channel; parsers do not notice"
            yield _CHANNEL.at(view, node, message, "use one scale for activations, many only for weights")


def _nodes(view: View) -> Iterator[NodeProto]:
    for node in view.of_onnx():
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 1 and node.output:
            yield node


def _is_not_zero(data: bytes) -> bool:
    return any(data)  # 0 is all zero bits in every integer and float type
