"""Write shapes that the exporter computes at run time as constants.

Every Reshape gets its target from the inferred shape of its output: numbers where they are known, 0 (copy)
for a dynamic batch in front, -1 for at most one size that is still unknown. What computed the old target
(Shape, Gather, Concat) loses its last consumer and is removed by clean-up.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.errors import BuildFailed
from tofe_export.graph.emit import int64
from tofe_export.graph.passes.base import Pass, PassResult
from tofe_export.graph.passes.bind_sizes import DYNAMIC_BATCH


class StaticShapesPass(Pass):
    """Constant Reshape targets."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Replace the shape input of every Reshape.

        Raises:
            BuildFailed: a Reshape has two or more sizes that are not known.
        """
        modified = False
        for node in graph.nodes:
            if node.op != "Reshape" or node.outputs[0].shape is None:
                continue
            target = _target(node)
            old = node.inputs[1]
            if isinstance(old, gs.Constant) and np.array_equal(old.values, target):
                continue
            node.inputs[1] = gs.Constant(f"{node.name}:shape", target)
            node.attrs.pop("allowzero", None)
            modified = True
        return PassResult(graph, modified)


def _target(node: gs.Node) -> np.ndarray:
    sizes = list(node.outputs[0].shape)
    target = [size if isinstance(size, int) else -1 for size in sizes]
    if sizes[0] == DYNAMIC_BATCH:
        target[0] = 0
    if target.count(-1) > 1:
        raise BuildFailed(f"{node.name}: expected at most one unknown size in its output, found {sizes}")
    return int64(*target)
