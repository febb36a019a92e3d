"""At batch 1, take Q, K and V apart where matrix products can read them without a copy.

The template transposes the fused projection (1, T, 3H, d) to (1, 3H, T, d) and splits it there: a copy of all
of it, then three more. With the unit axis behind the tokens, (T, 1, 3H, d), split first, each part keeps the
transpose (1, 2, 0, 3), and that is one that ONNX Runtime's matrix product reads through. Larger batches
have no such form unless their tokens are interleaved, which TensorRT's attention kernels would have to undo.
Shapes around attention stay the same.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from tofe_export.graph.emit import Emitter, detach, replace, shaped
from tofe_export.graph.passes.base import Pass, PassResult

_FORWARD, _UNIT_FORWARD = [0, 2, 1, 3], [1, 2, 0, 3]


class SplitHeadsPass(Pass):
    """For batch 1; sizes must be known."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Rewrite every Reshape, Transpose (and Split) in a row that brings heads in front of tokens."""
        outputs = {id(tensor) for tensor in graph.outputs}
        found = [n for n in graph.nodes if _brings_heads_forward(n) and id(n.outputs[0]) not in outputs]
        for transpose in found:
            readers = transpose.outputs[0].outputs
            by_heads = len(readers) == 1 and readers[0].op == "Split" and readers[0].attrs.get("axis", 0) == 1
            _rewrite(graph, transpose, readers[0] if by_heads else None)
        return PassResult(graph, bool(found))


def _brings_heads_forward(node: gs.Node) -> bool:
    """Whether a node transposes (1, T, H, d) to (1, H, T, d) right behind a Reshape, at a known size."""
    if node.op != "Transpose" or node.attrs.get("perm") != _FORWARD:
        return False
    x = node.inputs[0]
    known = x.shape is not None and all(isinstance(size, int) for size in x.shape)
    return known and x.shape[0] == 1 and bool(x.inputs) and x.inputs[0].op == "Reshape"


def _rewrite(graph: gs.Graph, transpose: gs.Node, split: gs.Node | None) -> None:
    reshape = transpose.inputs[0].inputs[0]
    _, tokens, heads, depth = transpose.inputs[0].shape
    emit = Emitter(graph, transpose.name.rpartition("/")[0])
    x = emit.reshape(reshape.inputs[0], tokens, 1, heads, depth)
    x.shape = [tokens, 1, heads, depth]
    parts, results = [x], [transpose.outputs[0]]
    if split is not None:
        results = list(split.outputs)
        parts = emit("Split", x, *split.inputs[1:], axis=2, count=len(results))
        for part, old in zip(parts, results, strict=True):
            part.shape = [tokens, 1, old.shape[1], depth]
    for part, old in zip(parts, results, strict=True):
        replace(graph, old, shaped(emit("Transpose", part, perm=_UNIT_FORWARD), old))
    detach([transpose] if split is None else [split, transpose])
