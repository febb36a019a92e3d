"""Reshape once where graphs reshape twice, and not at all where the shape stays.

Lowering and flattening each write the Reshape that they need; between them some follow one another.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from tofe_export.graph.emit import replace
from tofe_export.graph.passes.base import Pass, PassResult


class MergeReshapesPass(Pass):
    """For Reshapes to constant shapes without 0 (copy), which would count in the tensor before."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Rewire in place; what nobody reads any more is left to clean-up."""
        modified = False
        for node in [node for node in graph.nodes if _absolute(node)]:
            while (source := _producer(node)) is not None and _absolute(source):
                node.inputs[0] = source.inputs[0]
                modified = True
            x, result = node.inputs[0], node.outputs[0]
            kept = any(tensor is result for tensor in graph.outputs)
            if (
                not kept
                and isinstance(x, gs.Variable)
                and _known(x)
                and list(x.shape) == list(result.shape or ())
            ):
                replace(graph, result, x)
                modified = True
        return PassResult(graph, modified)


def _absolute(node: gs.Node) -> bool:
    """Whether a node is a Reshape whose result depends on the number of elements alone."""
    if node.op != "Reshape" or not isinstance(node.inputs[1], gs.Constant):
        return False
    return 0 not in node.inputs[1].values


def _producer(node: gs.Node) -> gs.Node | None:
    return node.inputs[0].inputs[0] if node.inputs[0].inputs else None


def _known(tensor: gs.Variable) -> bool:
    return tensor.shape is not None and all(isinstance(size, int) for size in tensor.shape)
