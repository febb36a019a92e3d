"""Open a lowered graph up, so that `verify` can see and force what it selects (decision 7).

Outputs `scores_s`, `ids_s` and `kept_s` per stage (spatial ids), inputs `use_force` (bool, shape [1]) and
`force_s`: spatial ids (B, K_s), or for adaptive graphs a mask (1, N) of ones and zeros. When forced, the
scores that TopK sees are 1 for the forced tokens and 0 for all others; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.graph.emit import Emitter
from tofe_export.graph.passes.base import Pass, PassResult

Tensors = Mapping[str, gs.Tensor]


class ProbePass(Pass):
    """Add the probe's inputs and outputs to a lowered graph."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Expose and force every stage; a graph without stages stays as it is."""
        use_force = gs.Variable("use_force", np.bool_, [1])
        stage = 1
        while (tensors := graph.tensors()) and f"scores_{stage}" in tensors:
            self._open_stage(graph, tensors, use_force, stage)
            stage += 1
        if stage > 1:
            graph.inputs.append(use_force)
        return PassResult(graph, stage > 1)

    def _open_stage(self, graph: gs.Graph, tensors: Tensors, use_force: gs.Variable, stage: int) -> None:
        scores, kept = tensors[f"scores_{stage}"], tensors[f"kept_{stage}"]
        emit = Emitter(graph, f"stage{stage}.probe")
        ids = tensors.get(f"ids_{stage}")
        force = _force_mask if f"mask_{stage}" in tensors else _force_scores
        graph.inputs.append(force(emit, tensors, use_force, stage))
        graph.outputs.extend([scores, _spatial_ids(emit, scores, stage) if ids is None else ids, kept])
        scores.dtype, kept.dtype = np.float32, np.int64


def _force_scores(emit: Emitter, tensors: Tensors, use_force: gs.Variable, stage: int) -> gs.Variable:
    """Put forced scores in front of TopK."""
    scores, kept, ids = tensors[f"scores_{stage}"], tensors[f"kept_{stage}"], tensors.get(f"ids_{stage}")
    force = gs.Variable(f"force_{stage}", np.int64, list(kept.shape))
    consumers = list(scores.outputs)
    in_order = np.arange(scores.shape[1], dtype=np.int64)[None, None]
    every = in_order if ids is None else emit.reshape(ids, 0, 1, -1)
    same = emit("Equal", emit.reshape(force, 0, -1, 1), every, dtype=np.bool_)  # (B, K, N)
    wanted = emit("ReduceMax", emit("Cast", same, to=1), axes=[1], keepdims=0)  # (B, N)
    _rewire(consumers, scores, emit("Where", use_force, wanted, scores))
    return force


def _force_mask(emit: Emitter, tensors: Tensors, use_force: gs.Variable, stage: int) -> gs.Variable:
    """Put a forced mask in front of NonZero."""
    mask, ids = tensors[f"mask_{stage}"], tensors.get(f"ids_{stage}")
    tokens = tensors["scores_1"].shape[1]
    force = gs.Variable(f"force_{stage}", np.float32, [1, tokens])
    consumers = list(mask.outputs)
    here = force if ids is None else emit("Gather", emit.reshape(force, tokens), ids, axis=0)
    wanted = emit("Greater", here, np.array([0.5], np.float32), dtype=np.bool_)
    forced = emit("And", use_force, wanted, dtype=np.bool_)
    chosen = emit("And", emit("Not", use_force, dtype=np.bool_), mask, dtype=np.bool_)
    _rewire(consumers, mask, emit("Or", forced, chosen, dtype=np.bool_))
    return force


def _rewire(consumers: list[gs.Node], old: gs.Tensor, new: gs.Tensor) -> None:
    for node in consumers:
        node.inputs = [new if tensor is old else tensor for tensor in node.inputs]


def _spatial_ids(emit: Emitter, scores: gs.Tensor, stage: int) -> gs.Tensor:
    """0 .. N - 1 for every image, as a tensor with a batch: adding a comparison that is always false."""
    zeros = emit("Cast", emit("Less", scores, scores, dtype=np.bool_), to=7, dtype=np.int64)
    ids = emit("Add", zeros, np.arange(scores.shape[1], dtype=np.int64)[None], dtype=np.int64)
    ids.name = f"ids_{stage}"
    return ids
