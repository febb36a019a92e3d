"""ToMe's graph: written from the paper; pairs are merged by a product with a 0/1 matrix instead of a scatter.

Only the odd half changes in a merge, so only it is weighted by sizes. What stays of the even half is taken in
the order of its similarity, least similar first: that is the one sort (the CLS, which is similar to nobody,
stays in front), and attention does not care. It does decide who is odd in the next block, where the paper
leaves the order open; `accuracy.rivals.tome` sorts by place.
"""

from __future__ import annotations

import torch
from accuracy.rivals.layers import add_attention, attention_macs, attention_of, blocks_of, mlp_macs
from accuracy.rivals.tome import ToMe, spread
from torch import Tensor, nn

from latency.rivals.pieces import (
    Projected,
    Rows,
    add_mlp,
    attention,
    classified,
    last_block,
    last_block_macs,
)
from tofe_export.model.backbone import Backbone

_NEVER = -1e9  # a cosine that no pair has


class ToMeGraph(nn.Module):
    """Logits (B, C) of images (B, 3, H, W), for a fixed B; nothing is merged in the last block."""

    def __init__(self, model: ToMe, batch: int) -> None:
        super().__init__()
        self.backbone, self.merges, self.rows = model.backbone, model.merges, Rows(batch)

    def forward(self, images: Tensor) -> Tensor:
        """Run all blocks."""
        x, size = self.backbone.embed(images), None
        blocks = dict(blocks_of(self.backbone))
        last = blocks.pop(len(blocks) - 1)
        for number, block in blocks.items():
            projected = Projected(block)
            q, k, v = projected.all(block.norm1(x))
            weights = attention(q, k, _size_bias(size))
            x = add_attention(block, x, projected.mixed(weights, v))
            if pairs := min(self.merges[number], (x.shape[1] - 1) // 2):
                x, size = self._merged(x, size, k.mean(dim=1), pairs)
            x = add_mlp(block, x)
        return classified(self.backbone, last_block(last, x, _size_bias(size)))

    def _merged(self, x: Tensor, size: Tensor | None, keys: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
        """Merge `pairs` of tokens x (B, T, D) of sizes (B, T, 1) that are similar by keys (B, T, d)."""
        order, go, partner = self._matched(keys, pairs)
        parts = [order.shape[1] - pairs, pairs]
        stays, gone = self.rows.take(x, order * 2).split(parts, dim=1)
        odd = x[:, 1::2]
        chosen = self.rows.take(partner.unsqueeze(-1), go).transpose(1, 2)  # (B, 1, pairs)
        join = (chosen == torch.arange(odd.shape[1]).unsqueeze(1)).to(x.dtype)  # (B, odd, pairs)
        if size is None:
            stay_size = torch.ones(x.shape[0], parts[0], 1)
            odd_size = 1 + join.sum(dim=-1, keepdim=True)
        else:
            stay_size, go_size = self.rows.take(size, order * 2).split(parts, dim=1)
            odd_size = size[:, 1::2]
            odd, gone = odd * odd_size, gone * go_size
            odd_size = odd_size + join @ go_size
        merged = (odd + join @ gone) / odd_size
        return torch.cat([stays, merged], dim=1), torch.cat([stay_size, odd_size], dim=1)

    def _matched(self, keys: Tensor, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
        """Even tokens, the most similar last (B, even), the last `pairs` of them, and everyone's partner."""
        unit = keys / torch.linalg.vector_norm(keys, dim=-1, keepdim=True)
        similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
        apart = torch.zeros(similarity.shape[1], 1)
        apart[0] = _NEVER  # the CLS
        score, partner = (similarity + apart).max(dim=-1)
        order = score.topk(score.shape[1], dim=1, largest=False).indices
        return order, order[:, order.shape[1] - pairs :], partner


def _size_bias(size: Tensor | None) -> Tensor | None:
    """What sizes (B, T, 1) add to attention's logits: (B, 1, 1, T)."""
    return None if size is None else size.log().transpose(1, 2).unsqueeze(1)


def graph_macs(model: ToMe) -> int:
    """MACs per image that the graph runs."""
    backbone = model.backbone
    blocks = dict(blocks_of(backbone))
    head_width = backbone.attention_width // attention_of(blocks[0]).num_heads
    tokens, total = 1 + backbone.tokens, backbone.stem_macs() + backbone.head_cost().fixed
    merged = False
    for number in range(len(blocks) - 1):
        total += attention_macs(backbone, tokens)
        if pairs := min(model.merges[number], (tokens - 1) // 2):
            odd = tokens // 2
            total += (tokens - odd) * odd * head_width + odd * pairs * (backbone.width + merged)
            tokens, merged = tokens - pairs, True
        total += mlp_macs(backbone, tokens)
    return total + last_block_macs(backbone, tokens)


def at_macs(backbone: Backbone, target: float) -> ToMe:
    """The number of merges, spread over all blocks but the last, whose MACs are nearest to `target`."""
    places = len(backbone.blocks) - 1
    totals = range(backbone.tokens * places // 2)
    plans = (ToMe(backbone, (*spread(total, places), 0)) for total in totals)
    return min(plans, key=lambda plan: abs(graph_macs(plan) - target))
