"""EViT's graph: the rest is fused as (everything - what stays), so that it is never gathered or sorted."""

from __future__ import annotations

from math import ceil

import torch
from accuracy.rivals.evit import EViT
from accuracy.rivals.layers import add_attention, attention_macs, blocks_of, mlp_macs
from torch import Tensor, nn

from latency.rivals.pieces import (
    Projected,
    Rows,
    add_mlp,
    attention,
    classified,
    last_block,
    last_block_macs,
    whole_block,
    with_cls,
)
from tofe_export.model.backbone import Backbone


class EViTGraph(nn.Module):
    """Logits (B, C) of images (B, 3, H, W), for a fixed B."""

    def __init__(self, model: EViT, batch: int) -> None:
        super().__init__()
        last = len(model.backbone.blocks) - 1
        if last in model.locations:
            raise ValueError("expected no reduction in the last block, behind which only the CLS is read")
        self.backbone, self.locations, self.rate = model.backbone, model.locations, model.rate
        self.batch, self.rows = batch, Rows(batch)

    def forward(self, images: Tensor) -> Tensor:
        """Run all blocks."""
        x = self.backbone.embed(images)
        blocks = dict(blocks_of(self.backbone))
        last = blocks.pop(len(blocks) - 1)
        for number, block in blocks.items():
            if number not in self.locations:
                x = whole_block(block, x)
                continue
            projected = Projected(block)
            q, k, v = projected.all(block.norm1(x))
            weights = attention(q, k)
            x = add_attention(block, x, projected.mixed(weights, v))
            x = add_mlp(block, self._reduced(x, weights[:, :, 0, 1:].mean(dim=1)))
        return classified(self.backbone, last_block(last, x))

    def _reduced(self, x: Tensor, scores: Tensor) -> Tensor:
        """CLS, the best by scores (B, n), and the rest as one: their sum weighted by the scores."""
        keep = stay(self.rate, scores.shape[1])
        if keep >= scores.shape[1]:
            return x
        best, index = scores.topk(keep, dim=1)
        kept = self.rows.take(x, with_cls(index, self.batch))
        everything = scores.unsqueeze(1) @ x[:, 1:]
        return torch.cat([kept, everything - best.unsqueeze(1) @ kept[:, 1:]], dim=1)


def stay(rate: float, tokens: int) -> int:
    """How many of n tokens behind the CLS stay: ceil(rate * n)."""
    return ceil(rate * tokens)


def graph_macs(model: EViT) -> int:
    """MACs per image that the graph runs."""
    backbone, last = model.backbone, len(model.backbone.blocks) - 1
    behind, total = backbone.tokens, backbone.stem_macs() + backbone.head_cost().fixed
    for number in range(last):
        total += attention_macs(backbone, 1 + behind)
        if number in model.locations and (keep := stay(model.rate, behind)) < behind:
            total += (behind + keep) * backbone.width
            behind = keep + 1
        total += mlp_macs(backbone, 1 + behind)
    return total + last_block_macs(backbone, 1 + behind)


def at_macs(backbone: Backbone, target: float) -> EViT:
    """The keep rate, in thousandths, whose graph's MACs are nearest to `target`."""
    plans = (EViT(backbone, backbone.locations, rate / 1000) for rate in range(1, 1001))
    return min(plans, key=lambda plan: abs(graph_macs(plan) - target))
