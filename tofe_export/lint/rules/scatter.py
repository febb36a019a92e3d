"""`reduction` of ScatterND and ScatterElements, which each TensorRT line treats in another way.

ScatterND: 8.x never reads it, 10.0 to 10.8 refuse a node that has it (even "none"), later ones take "none".
ScatterElements: 8.x never reads it, 10.x hands anything but "none" to a plugin. Not reading "add" is silent:
the graph then overwrites where it should add.
"""

from __future__ import annotations

from collections.abc import Iterator

from tofe_export.lint.findings import Finding
from tofe_export.lint.matrix import Matrix
from tofe_export.lint.rules.rule import Says
from tofe_export.lint.targets import Target
from tofe_export.lint.view import View, attribute

_RULE = "scatter-reduction"
_UNREAD = Says(_RULE, "onnx-tensorrt 8.6-GA importer sources: the attribute is never read", "exact")
_REFUSED = Says(
    _RULE, "onnx-tensorrt 10.1-GA importers, run: 'Attribute reduction is not supported'", "measured"
)
_NONE_ONLY = Says(_RULE, "onnx-tensorrt 10.15 operators.md; Changelog.md 10.9", "derived")
_PLUGIN = Says(_RULE, "onnx-tensorrt 10.1-GA importer sources; Changelog.md 10.0", "derived", "warning")
_DROP = "delete the attribute: without it ScatterND overwrites, as with 'none'"
_REWRITE = "rewrite without reduction: distinct indices and values that are reduced before"


def reduction(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """The attribute where it is refused, unread, or left to a plugin."""
    for node in view.of_onnx():
        if node.op_type not in ("ScatterND", "ScatterElements"):
            continue
        value = attribute(node, "reduction")
        if value is None:
            continue
        shown = f"`reduction` is {value!r}"
        if node.op_type == "ScatterND" and target.within("10.0", "10.9"):
            mend = _DROP if value == "none" else _REWRITE
            yield _REFUSED.at(view, node, f"{shown}; its mere presence stops the import", mend)
        elif value == "none":
            continue
        elif target.within("8.6", "9.0"):
            yield _UNREAD.at(view, node, f"{shown} and is ignored: wrong results", _REWRITE)
        elif node.op_type == "ScatterND":
            yield _NONE_ONLY.at(view, node, f"{shown}; only 'none' is supported", _REWRITE)
        else:
            message = f"{shown}, which a plugin does: libnvinfer_plugin is needed at build and run time"
            yield _PLUGIN.at(view, node, message, _REWRITE)
