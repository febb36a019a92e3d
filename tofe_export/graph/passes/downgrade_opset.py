"""Bring a graph from the exporter's opset 18 to 17, the newest that TensorRT 8.6 reads.

Three families changed their form in between: reductions took their axes as an attribute, Split its sizes as
an input instead of `num_outputs`, and Pad had no `axes` input. Scatter only gained reductions, which no graph
here uses. Any other operator whose definition changed is refused rather than relabelled.
"""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from tofe_export.errors import BuildFailed
from tofe_export.graph.emit import int64
from tofe_export.graph.passes.base import Pass, PassResult

TARGET_OPSET = 17
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")


class DowngradeOpsetPass(Pass):
    """Rewrite opset 18 forms as opset 17 forms."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Lower the opset to 17.

        Raises:
            BuildFailed: an operator changed between the two and has no rewriting here.
        """
        if graph.opset <= TARGET_OPSET:
            return PassResult(graph, False)
        for node in graph.nodes:
            if node.op in _REDUCTIONS and len(node.inputs) == 2:
                node.attrs["axes"] = [int(axis) for axis in node.inputs.pop(1).values]
                node.attrs.pop("noop_with_empty_axes", None)
            elif node.op == "Split" and "num_outputs" in node.attrs:
                _split_by_input(node)
            elif not _unchanged(node, graph.opset):
                raise BuildFailed(f"{node.name}: this {node.op} has no form in opset {TARGET_OPSET}")
        graph.opset = TARGET_OPSET
        graph.import_domains = None
        return PassResult(graph, True)


def _unchanged(node: gs.Node, opset: int) -> bool:
    """Whether the node means the same in both opsets."""
    if node.domain or node.op in (*_REDUCTIONS, "Split"):
        return True
    if node.op == "Pad":
        return len(node.inputs) < 4  # the fourth input is `axes`
    if node.op in ("ScatterND", "ScatterElements"):
        return "reduction" not in node.attrs
    return int(onnx.defs.get_schema(node.op, opset, "").since_version) <= TARGET_OPSET


def _split_by_input(node: gs.Node) -> None:
    """Name the sizes of an even Split."""
    count, axis = node.attrs.pop("num_outputs"), node.attrs.get("axis", 0)
    size = node.inputs[0].shape[axis]
    if not isinstance(size, int) or size % count:
        raise BuildFailed(f"{node.name}: cannot split {size} evenly into {count}")
    node.inputs = [node.inputs[0], gs.Constant(f"{node.name}:sizes", int64(*[size // count] * count))]
