"""Lower Freeze and Thaw to TopK over all tokens, Gather, Slice and Concat; nothing is scattered.

Blocks, selectors and per-token approximators do not care about the order of patch tokens (decision 1), so
tokens may travel as [prefix, kept, thawed]: one Gather takes the kept rows, one the frozen rows, one Concat
joins them again. The approximator sees the frozen rows alone.
Where nothing comes back (the last stage) TopK takes only K. Positions after the first stage are relative;
the spatial ids travel along.

Of equal scores the lowest spatial id must win, here as in the model and in the scatter lowering, and TopK
knows only positions. So once tokens have come back in another order, their scores are brought into spatial
order before they are ranked: by the inverse permutation, which is a TopK over the ids. That costs one more
TopK and two gathers of N numbers in every stage after the first.
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
        self._thawed = False

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Replace every Freeze, Thaw and Restore.

        Raises:
            UsageError: a stage has 3840 tokens or more, and sorting them all is beyond TensorRT's TopK; or an
                approximator convolves over the patch grid.
        """
        if any(node.op == "Conv" and node.name.startswith("approximators.") for node in graph.nodes):
            raise UsageError(NEEDS_SPATIAL_ORDER)
        self._ids, self._frozen_ids, self._orders, self._thawed = None, {}, {}, False
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
        ranked = self._rank(emit, scores, sort)
        self._orders[stage] = ranked
        self._track(emit, ranked, stage, tokens)
        chosen = ranked if sort == keep else _cut(emit, ranked, 0, keep)
        index = self.rows.index(emit, chosen, prefix, total)
        replace(graph, kept, shaped(self.rows.gather(emit, x, index), kept))
        if sort == keep or not frozen.outputs:
            return  # if K = N, `frozen` is read by what `_thaw` cuts off
        rest = self.rows.index_behind(emit, _cut(emit, ranked, keep, tokens), prefix, total)
        replace(graph, frozen, shaped(self.rows.gather(emit, x, rest), frozen))

    def _rank(self, emit: Emitter, scores: gs.Tensor, count: int) -> gs.Tensor:
        """Positions (B, count) of the best scores; of equal ones the lowest spatial id comes first."""
        if not self._thawed:
            return _top(emit, scores, count)
        tokens = scores.shape[1]
        ids = emit("Cast", self._ids, to=1)
        ids.shape = scores.shape
        positions = _top(emit, ids, tokens, largest=0)  # where each spatial id travels
        spatial = self.rows.gather_ids(emit, scores, positions, tokens)
        spatial.shape = scores.shape
        ranked = self.rows.gather_ids(emit, positions, _top(emit, spatial, count), tokens)
        ranked.shape = [scores.shape[0], count]
        return ranked

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
        self._thawed = True
        tokens = x.shape[1] - node.attrs["prefix"]
        if self.keep[stage] == tokens and not node.attrs["every_row"]:
            replace(graph, x, kept)  # nothing was frozen; runtimes stumble over tensors without rows
            return
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


def _cut(emit: Emitter, positions: gs.Tensor, start: int, end: int) -> gs.Tensor:
    """Columns [start, end) of positions (B, N)."""
    part = emit.slice(positions, start, end)
    part.shape = [positions.shape[0], end - start]
    return part


def _top(emit: Emitter, values: gs.Tensor, count: int, largest: int = 1) -> gs.Tensor:
    """Positions (B, count) of the largest (or smallest) of values (B, N), equal ones as they come in."""
    _, positions = emit("TopK", values, int64(count), axis=-1, largest=largest, sorted=1, count=2)
    positions.dtype, positions.shape = np.int64, [values.shape[0], count]
    return positions
