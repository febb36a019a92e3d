"""Names of outputs. The parsers sort a graph by them, and unnamed outputs all have one name: ''."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tofe_export.lint.findings import Finding
from tofe_export.lint.matrix import Matrix
from tofe_export.lint.rules.rule import Says
from tofe_export.lint.targets import Target
from tofe_export.lint.view import View

_SORT = "onnx-tensorrt 8.6-GA and 10.1-GA, toposort.hpp: 'Output name is not unique'"
_EMPTY_OLD = Says("empty-output", _SORT, "exact")
_EMPTY = Says(
    "empty-output",
    "onnx-tensorrt 10.1-GA importers, run: 'Failed to sort topologically'; Changelog.md 10.6",
    "measured",
)
_TWICE = Says("duplicate-output", f"the ONNX standard (single assignment); {_SORT}", "derived")


def empty_output(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Nodes with unnamed outputs, where the graph has more than one of them."""
    if not target.within("8.6", "10.6"):
        return
    unnamed = [node for node in view.nodes for output in node.output if not output]
    if len(unnamed) < 2:
        return
    known = _EMPTY if target.within("10.0") else _EMPTY_OLD
    for node in {id(node): node for node in unnamed}.values():
        message = f"{len(unnamed)} outputs of the graph are named '', this node has one: the import stops"
        yield known.at(view, node, message, "drop trailing outputs that are not used, or name them")


def duplicate_output(view: View, target: Target, matrix: Matrix) -> Iterator[Finding]:
    """Nodes that make a tensor which another node makes, or which is an input or initializer."""
    taken = Counter([*view.inputs, *view.initializers])
    for node in view.nodes:
        for output in filter(None, node.output):
            if taken[output]:
                message = f"{output!r} exists already in this graph"
                yield _TWICE.at(view, node, message, "give every tensor a name of its own")
            taken[output] += 1
