"""Lower Freeze and Thaw to TopK over all tokens, Gather, Slice and Concat; nothing is scattered.

Blocks, selectors and per-token approximators do not care about the order of patch tokens (decision 1), so
tokens may travel as [prefix, kept, thawed]: one Gather brings a stage's tokens into the order of their
scores, two Slices part them, one Concat joins them again. The approximator sees the frozen rows alone.
Where nothing comes back (the last stage) TopK takes only K. Positions after the first stage are relative;
the spatial ids travel along and are pruned where nobody asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.errors import UsageError
from tofe_export.graph.emit import (
    FREEZE,
    RESTORE,
    THAW,
    Emitter,
    detach,
    int64,
    name_ids,
    replace,
    shaped,
    template_nodes,
)
from tofe_export.graph.passes.base import Pass, PassResult
from tofe_export.graph.rows import Rows

TOPK_LIMIT = 3840
"""TensorRT's TopK takes K below this (decision 5)."""
NEEDS_SPATIAL_ORDER = (
    "`concat` leaves the spatial order that a depthwise approximator needs: use --lowering scatter"
)


class LowerConcatPass(Pass):
    """The scatter-free lowering. `keep` holds K_1 .. K_S; `batch` is None for a dynamic batch."""

    def __init__(self, keep: Sequence[int], batch: int | None) -> None:
        self.keep, self.rows = tuple(keep), Rows(batch)
        self._ids: gs.Tensor | None = None
        self._frozen_ids: dict[int, gs.Tensor] = {}
        self._orders: dict[int, gs.Tensor] = {}

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Replace every Freeze, Thaw and Restore.

        Raises:
            UsageError: a stage has 3840 tokens or more, and sorting them all is beyond TensorRT's TopK; or an
                approximator convolves over the patch grid.
        """
        if any(node.op == "Conv" and node.name.startswith("approximators.") for node in graph.nodes):
            raise UsageError(NEEDS_SPATIAL_ORDER)
        self._ids, self._frozen_ids, self._orders = None, {}, {}
        nodes = template_nodes(graph, FREEZE, THAW, RESTORE)
        lower = {FREEZE: self._freeze, THAW: self._thaw, RESTORE: self._restore}
        for node in nodes:
            lower[node.op](graph, node)
        detach(nodes)
        return PassResult(graph, bool(nodes))

    def _freeze(self, graph: gs.Graph, node: gs.Node) -> None:
        x, scores = node.inputs
        kept, frozen, order = node.outputs
        stage, prefix, total = node.attrs["stage"], node.attrs["prefix"], x.shape[1]
        tokens, keep = total - prefix, self.keep[stage]
        sort = tokens if frozen.outputs or order.outputs else keep
        if sort >= TOPK_LIMIT:
            raise UsageError(
                f"`concat` sorts all {tokens} tokens, and TensorRT's TopK takes fewer than {TOPK_LIMIT}: "
                "use --lowering scatter"
            )
        emit = Emitter(graph, f"stage{stage + 1}.freeze")
        scores.name = f"scores_{stage + 1}"
        _, ranked = emit("TopK", scores, int64(sort), axis=-1, largest=1, sorted=1, count=2)
        ranked.dtype, ranked.shape = np.int64, [scores.shape[0], sort]
        self._orders[stage] = ranked
        self._track(emit, ranked, stage, tokens)
        index = self.rows.index(emit, ranked, prefix, total)
        rows = self.rows.gather(emit, x, index)
        if sort == keep:
            replace(graph, kept, shaped(rows, kept))
            if frozen.outputs:  # keep == N: nothing is frozen, and the graph must still have the tensor
                replace(graph, frozen, shaped(emit.slice(rows, total, total), frozen))
            return
        replace(graph, kept, shaped(emit.slice(rows, 0, prefix + keep), kept))
        if frozen.outputs:
            replace(graph, frozen, shaped(emit.slice(rows, prefix + keep, total), frozen))

    def _track(self, emit: Emitter, ranked: gs.Tensor, stage: int, tokens: int) -> None:
        """Follow the spatial ids of the patches: those in play, and those that this stage freezes."""
        keep, ids = self.keep[stage], ranked
        if self._ids is not None:
            name_ids(emit, self._ids, stage)
            ids = self.rows.gather_ids(emit, self._ids, ranked, tokens)
            ids.shape = ranked.shape
        kept = emit.slice(ids, 0, keep)
        kept.name, kept.shape = f"kept_{stage + 1}", [ranked.shape[0], keep]
        self._ids, self._frozen_ids[stage] = kept, emit.slice(ids, keep, tokens)

    def _thaw(self, graph: gs.Graph, node: gs.Node) -> None:
        kept, recovered, _ = node.inputs
        stage, x = node.attrs["stage"], node.outputs[0]
        emit = Emitter(graph, f"stage{stage + 1}.thaw")
        tokens = x.shape[1] - node.attrs["prefix"]
        if node.attrs["every_row"]:
            frozen = emit.slice(self._orders[stage], self.keep[stage], tokens)
            index = self.rows.index(emit, frozen, 0, tokens)
            recovered = self.rows.gather(emit, recovered, index)
        joined = emit("Concat", kept, recovered, axis=1)
        self._ids = emit("Concat", self._ids, self._frozen_ids[stage], axis=1, dtype=np.int64)
        self._ids.shape = [kept.shape[0], tokens]
        replace(graph, x, shaped(joined, x))

    def _restore(self, graph: gs.Graph, node: gs.Node) -> None:
        """Scatter the rows to their spatial places; every row is written, so the base does not matter."""
        x, prefix = node.inputs[0], node.attrs["prefix"]
        emit = Emitter(graph, "restore")
        index = self.rows.index(emit, self._ids, prefix, x.shape[1])
        replace(graph, node.outputs[0], shaped(self.rows.scatter(emit, x, index, x), node.outputs[0]))
