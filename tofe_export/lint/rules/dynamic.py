"""Sizes and control that are settled at run time."""

from __future__ import annotations

from collections.abc import Iterator

from tofe_export.lint.findings import Finding
from tofe_export.lint.matrix import Matrix
from tofe_export.lint.rules.rule import Says
from tofe_export.lint.targets import Target
from tofe_export.lint.view import View

_WRONG = Says("dynamic-shape", "github.com/NVIDIA/TensorRT issue 4419: fixed in 10.5", "derived")
_DATA = Says(
    "data-dependent", "NvInfer.h: IOutputAllocator; no capture into a CUDA graph", "derived", "warning"
)
_FLOW = Says("control-flow", "TensorRT developer guide: loops and conditionals", "derived", "warning")
_CUMSUM = Says(
    "control-flow", "onnx-tensorrt 8.6-GA and 10.1-GA: CumSum goes through addLoop", "derived", "advice"
)
DATA_DEPENDENT = ("NonZero", "NonMaxSuppression")


def dynamic_shape(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Inputs with a size that is no number, on the versions that compute transformers wrongly then."""
    if view.path or not target.within("10.3", "10.5"):
        return
    for name in view.inputs:
        sizes = view.shape_of(name)
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            shown = "unknown" if sizes is None else f"[{', '.join(str(s or '?') for s in sizes)}]"
            message = (
                f"its shape is {shown}; transformers with dynamic sizes give wrong results, without an error"
            )
            yield _WRONG.on(name, "input", message, "export with a fixed batch and fixed sizes")


def data_dependent(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Operators whose output size depends on values (where the parser takes them at all)."""
    for node in view.of_onnx():
        row = matrix.operator(target, node.op_type)
        if node.op_type in DATA_DEPENDENT and row is not None and row.types:
            message = (
                f"the size of what {node.op_type} makes depends on the data: no CUDA graph, unknown memory"
            )
            yield _DATA.at(view, node, message, "select with TopK and a constant K, or with Where")


def control_flow(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """If, Loop and Scan; CumSum where it becomes a loop."""
    for node in view.of_onnx():
        if node.op_type in ("If", "Loop", "Scan"):
            message = f"{node.op_type} is parsed, but it splits the engine and stops fusions and CUDA graphs"
            yield _FLOW.at(view, node, message, "fold it if it is constant; else unroll or export without it")
        elif node.op_type == "CumSum" and target.within("8.6", "10.8"):
            message = "CumSum becomes a loop"
            yield _CUMSUM.at(view, node, message, "multiply by a triangular matrix of ones instead")
