"""Remove what nobody reads, merge equal small constants, and sort nodes into execution order."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.graph.passes.base import Pass, PassResult

_SMALL = 64  # elements; only constants that hold indices and shapes are worth comparing


class CleanUpPass(Pass):
    """Last pass of every list."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Clean up in place."""
        before = len(graph.nodes)
        graph.cleanup(remove_unused_graph_inputs=False).toposort()
        merged = _merge_constants(graph)
        return PassResult(graph, merged or len(graph.nodes) != before)


def _merge_constants(graph: gs.Graph) -> bool:
    """Let equal small constants be one tensor."""
    seen: dict[tuple[str, tuple[int, ...], bytes], gs.Constant] = {}
    merged = False
    for node in graph.nodes:
        for i, tensor in enumerate(node.inputs):
            if not isinstance(tensor, gs.Constant) or int(np.prod(tensor.shape)) > _SMALL:
                continue
            values = tensor.values
            first = seen.setdefault((str(values.dtype), values.shape, values.tobytes()), tensor)
            if first is not tensor:
                node.inputs[i] = first
                merged = True
    return merged
