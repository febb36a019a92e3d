"""Bring a finished graph from opset 17 to 19, where QuantizeLinear takes half precision.

Reductions took their axes as an attribute before opset 18 and take them as an input since. The other
operators that exports have only gained types, or attributes whose absence means what it meant. Any that did
more is refused rather than relabelled.
"""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from tofe_export.errors import BuildFailed
from tofe_export.graph.emit import int64
from tofe_export.graph.passes.base import Pass, PassResult

HALF_QUANTIZATION_OPSET = 19
_REDUCTIONS = ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2")
_GREW = frozenset(
    {
        *("Cast", "Constant", "Equal", "Identity", "Pad", "Reshape", "Split", "ScatterND", "ScatterElements"),
        *("QuantizeLinear", "DequantizeLinear"),
    }
)
"""Changed between opset 17 and 19 only by more types, or by options that are off unless they are given."""


class UpgradeOpsetPass(Pass):
    """Rewrite opset 17 forms as opset 19 forms."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Raise the opset to 19.

        Raises:
            BuildFailed: an operator changed between the two and has no rewriting here.
        """
        if graph.opset >= HALF_QUANTIZATION_OPSET:
            return PassResult(graph, False)
        for node in graph.nodes:
            if node.op in _REDUCTIONS:
                if "axes" in node.attrs:
                    axes = gs.Constant(f"{node.name}:axes", int64(*node.attrs.pop("axes")))
                    node.inputs = [node.inputs[0], axes]
            elif node.op not in _GREW and _version(node, graph.opset) != _version(node):
                raise BuildFailed(
                    f"{node.name}: {node.op} has no form in opset {HALF_QUANTIZATION_OPSET} here"
                )
        graph.opset = HALF_QUANTIZATION_OPSET
        graph.import_domains = None
        return PassResult(graph, True)


def _version(node: gs.Node, opset: int = HALF_QUANTIZATION_OPSET) -> int:
    """The opset that defined the operator as `opset` has it."""
    return int(onnx.defs.get_schema(node.op, opset, node.domain or "").since_version)
