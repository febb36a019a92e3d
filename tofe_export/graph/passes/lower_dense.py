"""Lower Freeze and Thaw to nothing: every token is processed in every block, as in the plain backbone."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from tofe_export.graph.emit import FREEZE, RESTORE, THAW, detach, replace, template_nodes
from tofe_export.graph.passes.base import Pass, PassResult


class LowerDensePass(Pass):
    """The baseline: selectors and approximators fall away."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Short-circuit every Freeze, Thaw and Restore."""
        nodes = template_nodes(graph, FREEZE, THAW, RESTORE)
        for node in nodes:
            replace(graph, node.outputs[0], node.inputs[0])
        detach(nodes)
        return PassResult(graph, bool(nodes))
