"""TopK, the operator that token selection stands on. `sorted` is in the matrix, and so is a K of run time."""

from __future__ import annotations

from collections.abc import Iterator

from tofe_export.lint.findings import Finding
from tofe_export.lint.matrix import Matrix
from tofe_export.lint.rules.rule import Says
from tofe_export.lint.targets import Target
from tofe_export.lint.view import View, attribute

LIMIT = 3840
_K_NEW = Says("topk", "onnx-tensorrt operators.md since 10.1: K less than 3840", "derived")
_K_OLD = Says("topk", "NvInfer.h, ITopKLayer of 10.3: K up to 3840; 8.6's parser does not check", "derived")
_AXIS = Says("topk", "NvInfer.h, ITopKLayer of 10.3: one of the last four axes", "derived")


def limits(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """K and the axis of TopK, as far as they are known."""
    for node in view.of_onnx():
        if node.op_type != "TopK" or not node.input:
            continue
        k = view.value(node.input[1]) if len(node.input) > 1 else None
        if k is not None and k.size and int(k.flat[0]) >= LIMIT:
            known = _K_NEW if target.within("10.0") else _K_OLD
            message = f"K is {int(k.flat[0])}, expected less than {LIMIT}"
            yield known.at(view, node, message, "keep fewer, or split into several TopK")
        shape = view.shape_of(node.input[0])
        axis = attribute(node, "axis")
        axis = -1 if axis is None else axis
        if shape is not None and (axis if axis < 0 else axis - len(shape)) < -4:
            message = f"axis {axis} of {len(shape)}, expected one of the last four"
            yield _AXIS.at(view, node, message, "reshape or transpose so that TopK works on the last axis")
