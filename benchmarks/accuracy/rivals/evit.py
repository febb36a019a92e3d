"""EViT: the CLS attention of a block says which tokens go on; the others leave fused into one.

Liang et al., "Not All Patches Are What You Need", ICLR 2022. In the blocks of `locations`, between attention
and MLP, ceil(rate * n) of the n tokens behind the CLS stay: those with the largest attention from the CLS,
mean over heads. The rest is summed, weighted by that attention (not renormalised), into one more token, which
the next reduction treats like any other. No parameters; training and inference are the same forward.

Its recipe: fine-tune the whole net on the class loss, keep rate fixed from the start, weight decay 1e-6.
"""

from __future__ import annotations

from math import ceil

import torch
from torch import Tensor

from accuracy.rivals.layers import (
    add_attention,
    attention_macs,
    best,
    blocks_of,
    heads_of,
    join_heads,
    mlp_macs,
    mlp_update,
    outer_macs,
    take_rows,
)
from accuracy.rivals.reduced import Reduced, nearest
from tofe_export.model.backbone import Backbone


class EViT(Reduced):
    """A backbone whose blocks at `locations` keep a share `rate` of their tokens."""

    def __init__(self, backbone: Backbone, locations: tuple[int, ...], rate: float) -> None:
        super().__init__()
        self.backbone, self.locations, self.rate = backbone, locations, rate

    @classmethod
    def for_macs(cls, backbone: Backbone, locations: tuple[int, ...], target: float) -> EViT:
        """The keep rate, in thousandths, whose cost is nearest to `target`."""
        rates = (thousandths / 1000 for thousandths in range(1, 1001))
        return cls(backbone, locations, nearest(rates, lambda r: cls(backbone, locations, r).macs(), target))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        x = self.backbone.embed(images)
        for number, block in blocks_of(self.backbone):
            if number not in self.locations:
                x = block(x)
                continue
            heads = heads_of(block, block.norm1(x))
            attention = heads.logits().softmax(dim=-1)
            x = add_attention(block, x, join_heads(block, attention @ heads.v))
            x = keep_and_fuse(x, attention[:, :, 0, 1:].mean(dim=1), self._stay(x.shape[1] - 1))
            x = x + mlp_update(block, x)
        return self.backbone.head(self.backbone.final_norm(x))

    def macs(self) -> int:
        """MACs per image."""
        behind, total = self.backbone.tokens, outer_macs(self.backbone, self.kept()[-1])
        for number, _ in blocks_of(self.backbone):
            total += attention_macs(self.backbone, 1 + behind)
            if number in self.locations:
                behind = self._after(behind)
            total += mlp_macs(self.backbone, 1 + behind)
        return total

    def kept(self) -> tuple[int, ...]:
        """Tokens behind the CLS after each reduction, the fused one included."""
        counts = [self.backbone.tokens]
        for _ in self.locations:
            counts.append(self._after(counts[-1]))
        return tuple(counts[1:])

    def _stay(self, behind: int) -> int:
        return ceil(self.rate * behind)

    def _after(self, behind: int) -> int:
        return min(self._stay(behind) + 1, behind)


def keep_and_fuse(x: Tensor, scores: Tensor, keep: int) -> Tensor:
    """Tokens (B, 1 + n, D) by scores (B, n): CLS, the `keep` best, and one fused if any are left."""
    stay, go = best(scores, keep)
    rows = [x[:, :1], take_rows(x[:, 1:], stay)]
    if go.shape[1]:
        weighted = take_rows(x[:, 1:], go) * scores.gather(1, go).unsqueeze(-1)
        rows.append(weighted.sum(dim=1, keepdim=True))
    return torch.cat(rows, dim=1)
