"""Lower Freeze and Thaw for instance-adaptive inference: a threshold per stage, batch 1, dynamic K.

A token is kept where its score reaches min(threshold, best score), so at least one always is. NonZero lists
the kept patches; everything after that is the scatter lowering. `mask_s` (1, N_s) is named for `ProbePass`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.graph.emit import Emitter
from tofe_export.graph.passes.lower_scatter import LowerScatterPass


class LowerAdaptivePass(LowerScatterPass):
    """The dynamic lowering, for runtimes with dynamic shapes."""

    def __init__(self, thresholds: Sequence[float]) -> None:
        super().__init__(keep=(), batch=1)
        self.thresholds = tuple(thresholds)

    def select(self, emit: Emitter, scores: gs.Tensor, stage: int) -> gs.Tensor:
        """Index (1, K) of the kept patches, in stage-entry order."""
        threshold = np.array([[self.thresholds[stage]]], np.float32)
        best = emit("ReduceMax", scores, axes=[1], keepdims=1)
        mask = emit("GreaterOrEqual", scores, emit("Min", best, threshold), dtype=np.bool_)
        mask.name, mask.shape = f"mask_{stage + 1}", scores.shape
        places = emit("NonZero", mask, dtype=np.int64)  # (2, K): rows of zeros, and patches
        index = emit("Slice", places, *(np.array([v], np.int32) for v in (1, 2, 0, 1)), dtype=np.int64)
        index.shape = [1, f"kept_{stage + 1}"]
        return index
