"""Give every Slice INT32 parameters: with all of them INT32, TensorRT makes one layer instead of 33."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.graph.passes.base import Pass, PassResult

_LIMITS = np.iinfo(np.int32)


class Int32SlicesPass(Pass):
    """Convert constant starts, ends, axes and steps; INT64's "to the end" becomes INT32's."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Convert where all parameters are constants."""
        modified = False
        for node in graph.nodes:
            parameters = node.inputs[1:]
            if node.op != "Slice" or not all(isinstance(p, gs.Constant) for p in parameters):
                continue
            if all(p.values.dtype == np.int32 for p in parameters):
                continue
            converted = [np.clip(p.values, _LIMITS.min, _LIMITS.max).astype(np.int32) for p in parameters]
            constants = [gs.Constant(f"{node.name}:int32_{i}", v) for i, v in enumerate(converted)]
            node.inputs = [node.inputs[0], *constants]
            modified = True
        return PassResult(graph, modified)
