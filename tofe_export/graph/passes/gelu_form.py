"""Write GELU in the order in which runtimes recognise it.

The exporter writes x * (0.5 * (1 + erf(x / sqrt 2))). ONNX Runtime fuses x * (1 + erf(x / sqrt 2)) * 0.5 into
one operator, and the first form not at all: five passes over the widest tensor of every block instead of one.
Multiplying by a half is exact, so both orders give the same numbers, except where a result is denormal.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from tofe_export.graph.emit import Emitter, detach, replace, shaped
from tofe_export.graph.passes.base import Pass, PassResult


class GeluFormPass(Pass):
    """Move the half of every GELU to the end."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Rewrite what matches; anything else that uses Erf stays."""
        modified = False
        for erf in [node for node in graph.nodes if node.op == "Erf"]:
            half = _reader(graph, _reader(graph, erf, "Add"), "Mul")
            product = _reader(graph, half, "Mul")
            if half is None or product is None or (constant := _half(half)) is None:
                continue
            gate = next(tensor for tensor in half.inputs if tensor is not constant)
            inputs = [tensor for tensor in product.inputs if tensor is not half.outputs[0]]
            if len(inputs) != 1 or inputs[0] is not erf.inputs[0].inputs[0].inputs[0]:
                continue
            emit = Emitter(graph, product.name.rpartition("/")[0] or product.name)
            result = product.outputs[0]
            gated = shaped(emit("Mul", inputs[0], gate), result)
            replace(graph, result, shaped(emit("Mul", gated, constant), result))
            detach([half, product])
            modified = True
        return PassResult(graph, modified)


def _reader(graph: gs.Graph, node: gs.Node | None, op: str) -> gs.Node | None:
    """The only node that reads what `node` makes, if it is an `op`."""
    if node is None or len(node.outputs[0].outputs) != 1:
        return None
    if any(tensor is node.outputs[0] for tensor in graph.outputs):
        return None
    reader = node.outputs[0].outputs[0]
    return reader if reader.op == op else None


def _half(node: gs.Node) -> gs.Constant | None:
    """The constant 0.5 among a node's inputs."""
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant) and tensor.values.size == 1 and float(tensor.values.item()) == 0.5:
            return tensor
    return None
