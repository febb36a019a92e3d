"""IdleViT's graph: the choice is one product, since the mean over heads of q k is q k over all heads, / H.

Every reduced block norms and projects the keys of all tokens; queries, values and everything behind see the
kept ones. The last block is read at the CLS alone, so nothing is put back behind it.
"""

from __future__ import annotations

from accuracy.rivals.idlevit import IdleViT
from accuracy.rivals.layers import add_attention, attention_macs, blocks_of, mlp_macs
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from latency.rivals.pieces import (
    Projected,
    Rows,
    add_mlp,
    attention,
    classified,
    last_block_macs,
    whole_block,
    with_cls,
)
from tofe_export.model.backbone import Backbone


class IdleViTGraph(nn.Module):
    """Logits (B, C) of images (B, 3, H, W), for a fixed B."""

    def __init__(self, model: IdleViT, batch: int) -> None:
        super().__init__()
        self.backbone, self.first, self.keep = model.backbone, model.first, model.kept()
        self.batch, self.rows = batch, Rows(batch)

    def forward(self, images: Tensor) -> Tensor:
        """Run all blocks."""
        x = self.backbone.embed(images)
        last = len(self.backbone.blocks) - 1
        for number, block in blocks_of(self.backbone):
            if number < self.first:
                x = whole_block(block, x)
            else:
                x = self._idle(block, x, self.keep[number - self.first], last=number == last)
        return classified(self.backbone, x)

    def _idle(self, block: Block, x: Tensor, keep: int, *, last: bool) -> Tensor:
        """One block on the CLS and `keep` patches; (B, 1, D) if it is the last."""
        projected, normed = Projected(block), block.norm1(x)
        k, asking = projected.k(normed), projected.q(normed[:, :1])
        answers = (k @ asking.transpose(1, 2))[:, 1:, 0]  # H times the mean over heads: the same order
        index = with_cls(answers.topk(keep, dim=1).indices, self.batch)
        rows = self.rows.take(normed, index)
        weights = attention(
            projected.apart(asking if last else projected.q(rows)),
            projected.apart(self.rows.take(k, index)),
        )
        mixed = projected.mixed(weights, projected.apart(projected.v(rows)))
        kept = add_mlp(block, add_attention(block, x[:, :1] if last else self.rows.take(x, index), mixed))
        return kept if last else self.rows.put(x, index, kept)


def graph_macs(model: IdleViT) -> int:
    """MACs per image that the graph runs."""
    backbone, kept = model.backbone, model.kept()
    width, heads_width, tokens = backbone.width, backbone.attention_width, 1 + backbone.tokens
    total = backbone.stem_macs() + backbone.head_cost().fixed
    total += model.first * (attention_macs(backbone, tokens) + mlp_macs(backbone, tokens))
    choice = width * heads_width + tokens * heads_width
    for count in kept[:-1]:
        rows = 1 + count
        idle_keys = (tokens - rows) * width * heads_width
        total += attention_macs(backbone, rows) + mlp_macs(backbone, rows) + idle_keys + choice
    rows = 1 + kept[-1]
    idle_keys = (tokens - rows) * width * heads_width
    return total + last_block_macs(backbone, rows) + idle_keys + tokens * heads_width


def at_macs(backbone: Backbone, target: float) -> IdleViT:
    """The rate, in thousandths, whose graph's MACs are nearest to `target`."""
    first = backbone.locations[0]
    plans = (IdleViT(backbone, first, rate / 1000) for rate in range(1, 1001))
    return min(plans, key=lambda plan: abs(graph_macs(plan) - target))
