"""Take token rows out of (B, T, D) and put them back, for a fixed and for a dynamic batch.

A fixed batch flattens (B, T) and uses plain Gather and ScatterND on axis 0 with B * K indices: an expanded
GatherElements index would cost K * D integers per image (decision 4). ScatterND carries no `reduction`
attribute (decision 5). A dynamic batch cannot flatten without Shape and Range; there rows come out by
GatherND with batch_dims=1 and go back by ScatterElements, whose index is broadcast by adding zeros.
Everything here is what NVIDIA's parser accepted for 8.6 to 11 (design, decision 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.graph.emit import Emitter, int64

Size = int | str
"""A number of rows: known, or the name of a symbol (adaptive graphs)."""


@dataclass(frozen=True)
class Rows:
    """Row access for token arrays of batch `batch` (None: dynamic)."""

    batch: int | None

    def index(self, emit: Emitter, patches: gs.Tensor, prefix: int, total: Size) -> gs.Tensor:
        """Row index (B, P + K) of prefix and patches (B, K), for `gather` and `scatter` on (B, total, D).

        For a fixed batch it addresses the flattened rows, B * total of them.
        """
        if self.batch is None:
            return _prefixed_dynamic(emit, patches, prefix)
        stride = total if isinstance(total, int) else 0  # an unknown total occurs at batch 1 alone
        offsets = np.arange(self.batch, dtype=np.int64)[:, None] * stride  # (B, 1)
        shift = offsets + prefix
        rows = emit("Add", patches, shift, dtype=np.int64) if shift.any() else patches
        if not prefix:
            return rows
        return emit("Concat", offsets + np.arange(prefix, dtype=np.int64), rows, axis=1, dtype=np.int64)

    def index_behind(self, emit: Emitter, patches: gs.Tensor, prefix: int, total: Size) -> gs.Tensor:
        """Row index (B, n) of patches (B, n) alone, as `index` addresses them behind the prefix."""
        if self.batch is None:
            return emit("Add", patches, int64(prefix), dtype=np.int64) if prefix else patches
        stride = total if isinstance(total, int) else 0  # as in `index`
        shift = np.arange(self.batch, dtype=np.int64)[:, None] * stride + prefix
        return emit("Add", patches, shift, dtype=np.int64) if shift.any() else patches

    def gather(self, emit: Emitter, x: gs.Tensor, index: gs.Tensor) -> gs.Variable:
        """Rows of x (B, T, D) at `index` (B, n): (B, n, D)."""
        if self.batch is None:
            return emit("GatherND", x, emit.reshape(index, 0, -1, 1), batch_dims=1)
        return emit("Gather", emit.reshape(x, -1, x.shape[2]), index, axis=0)

    def gather_ids(self, emit: Emitter, ids: gs.Tensor, patches: gs.Tensor, total: Size) -> gs.Variable:
        """Entries of ids (or scores) (B, total) at patches (B, n): (B, n)."""
        if self.batch is None:
            return emit("GatherND", ids, emit.reshape(patches, 0, -1, 1), batch_dims=1, dtype=ids.dtype)
        index = self.index(emit, patches, 0, total)
        return emit("Gather", emit.reshape(ids, -1), index, axis=0, dtype=ids.dtype)

    def scatter(self, emit: Emitter, base: gs.Tensor, index: gs.Tensor, rows: gs.Tensor) -> gs.Variable:
        """Overwrite rows of base (B, T, D) at `index` (B, n) with `rows` (B, n, D)."""
        width = rows.shape[2]
        if self.batch is None:
            zeros = np.zeros((1, 1, width), np.int64)
            wide = emit("Add", emit.reshape(index, 0, -1, 1), zeros, dtype=np.int64)
            return emit("ScatterElements", base, wide, rows, axis=1)
        flat = emit.reshape(base, -1, width)
        written = emit("ScatterND", flat, emit.reshape(index, -1, 1), emit.reshape(rows, -1, width))
        return emit.reshape(written, self.batch, -1, width)


def _prefixed_dynamic(emit: Emitter, patches: gs.Tensor, prefix: int) -> gs.Tensor:
    """Prepend 0 .. P - 1 to every row of patches + P without knowing the batch: Add, Pad, and Add again."""
    if not prefix:
        return patches
    shifted = emit("Add", patches, int64(prefix), dtype=np.int64)
    padded = emit("Pad", shifted, int64(0, prefix, 0, 0), np.array(0, np.int64), dtype=np.int64)
    if prefix == 1:
        return padded
    ramp = np.zeros((1, prefix + patches.shape[1]), np.int64)
    ramp[0, :prefix] = np.arange(prefix)
    return emit("Add", padded, ramp, dtype=np.int64)
