"""Lower Freeze and Thaw to TopK, Gather and ScatterND; tokens stay in spatial order.

    Freeze: TopK(scores, K) -> index; one Gather takes prefix and kept rows.
    Thaw:   the approximator has run on all stage-entry rows (its `frozen` input is the stage's whole input,
            prefix included); ScatterND overwrites the kept rows with what the blocks made of them.

No sort of all N tokens is needed, at the price of approximating the kept rows in vain.

The passes that lower stages give three tensors of stage s (from 1) fixed names, which `ProbePass` looks up:
`scores_s` (B, N_s), `ids_s` (B, N_s) the spatial id of each score, absent where that is 0 .. N - 1, and
`kept_s` (B, K_s) spatial ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

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
from tofe_export.graph.rows import Rows, Size


class LowerScatterPass(Pass):
    """The default lowering. `keep` holds K_1 .. K_S; `batch` is None for a dynamic batch."""

    def __init__(self, keep: Sequence[int], batch: int | None) -> None:
        self.keep, self.rows = tuple(keep), Rows(batch)
        self._ids: gs.Tensor | None = None
        self._stages: dict[int, tuple[gs.Tensor, gs.Tensor | None]] = {}

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Replace every Freeze, Thaw and Restore."""
        self._ids, self._stages = None, {}
        nodes = template_nodes(graph, FREEZE, THAW, RESTORE)
        for node in nodes:
            if node.op == FREEZE:
                self._freeze(graph, node)
            elif node.op == THAW:
                self._thaw(graph, node)
            else:
                replace(graph, node.outputs[0], node.inputs[0])
        detach(nodes)
        return PassResult(graph, bool(nodes))

    def select(self, emit: Emitter, scores: gs.Tensor, stage: int) -> gs.Tensor:
        """Index (B, K) of the kept patches among the stage's patches."""
        _, index = emit("TopK", scores, int64(self.keep[stage]), axis=-1, largest=1, sorted=1, count=2)
        index.dtype, index.shape = np.int64, [scores.shape[0], self.keep[stage]]
        return index

    def _freeze(self, graph: gs.Graph, node: gs.Node) -> None:
        x, scores = node.inputs
        kept, frozen, _ = node.outputs
        stage, prefix = node.attrs["stage"], node.attrs["prefix"]
        emit = Emitter(graph, f"stage{stage + 1}.freeze")
        scores.name = f"scores_{stage + 1}"
        patches = self.select(emit, scores, stage)
        index = self.rows.index(emit, patches, prefix, x.shape[1])
        self._stages[stage] = index, self._ids
        self._name_ids(emit, patches, stage, scores.shape[1])
        replace(graph, kept, shaped(self.rows.gather(emit, x, index), kept))
        replace(graph, frozen, x)

    def _name_ids(self, emit: Emitter, patches: gs.Tensor, stage: int, tokens: Size) -> None:
        """Track which spatial ids the surviving patches have."""
        kept = patches
        if self._ids is not None:
            name_ids(emit, self._ids, stage)
            kept = self.rows.gather_ids(emit, self._ids, patches, tokens)
            kept.shape = patches.shape
        kept.name = f"kept_{stage + 1}"
        self._ids = kept

    def _thaw(self, graph: gs.Graph, node: gs.Node) -> None:
        rows, base, _ = node.inputs
        stage, prefix, x = node.attrs["stage"], node.attrs["prefix"], node.outputs[0]
        emit = Emitter(graph, f"stage{stage + 1}.thaw")
        index, self._ids = self._stages[stage]
        if node.attrs["every_row"] and prefix:
            base = emit("Concat", emit.slice(rows, 0, prefix), base, axis=1)
        replace(graph, x, shaped(self.rows.scatter(emit, base, index, rows), x))
