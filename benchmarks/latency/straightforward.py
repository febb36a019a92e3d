"""ToFe as one would write it in PyTorch and hand to the exporter: topk, gather, scatter.

The reference's own freezer cannot be exported at all (torch 2.15 has no ONNX form of a stable sort), so this
one is what somebody would come to next. It does no more than needed: no full sort, and approximators on all
patch tokens, over which the kept ones are scattered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tofe_export.model.freezer import Freezer, Split
from tofe_export.model.tofe import ToFe


class ScatteringFreezer(Freezer):
    """Keeps the K_s best tokens. Of equal scores, any."""

    def __init__(self, keep: Sequence[int]) -> None:
        self.keep = tuple(keep)

    def freeze(self, x: Tensor, scores: Tensor, stage: int) -> Split:
        """Gather prefix and kept rows; `frozen` is all patch tokens (B, N, D), `order` the kept ones' ids."""
        prefix = x.shape[1] - scores.shape[1]
        patches, index = x[:, prefix:], scores.topk(self.keep[stage], dim=1).indices
        kept = torch.cat([x[:, :prefix], patches.gather(1, _wide(index, x.shape[2]))], dim=1)
        return Split(kept, patches, index, stage)

    def thaw(self, kept: Tensor, recovered: Tensor, split: Split, *, every_row: bool) -> Tensor:
        """Scatter the kept rows over all recovered ones (B, N, D)."""
        prefix = kept.shape[1] - split.order.shape[1]
        patches = recovered.scatter(1, _wide(split.order, kept.shape[2]), kept[:, prefix:])
        return torch.cat([kept[:, :prefix], patches], dim=1)


class Straightforward(nn.Module):
    """Logits (B, C) of images (B, 3, H, W) at fixed counts."""

    def __init__(self, model: ToFe, keep: Sequence[int]) -> None:
        super().__init__()
        self.model, self.keep = model, tuple(keep)

    def forward(self, images: Tensor) -> Tensor:
        """Run ToFe."""
        logits: Tensor = self.model(images, ScatteringFreezer(self.keep))
        return logits


def _wide(index: Tensor, width: int) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, width)
