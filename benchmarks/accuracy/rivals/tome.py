"""ToMe: in every block the most similar pairs of tokens are merged.

Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023. Between attention and MLP the tokens at even
positions (the CLS among them) each look for the most similar token at an odd position, by the cosine of their
keys averaged over heads; the r best pairs are merged into size-weighted means. The CLS never merges away. A
token that stands for s patches counts s times as a key: log(s) is added to its attention logits. There is
nothing to train, so it works off the shelf; trained, the same forward is fine-tuned on the class loss.

r may differ from block to block: `for_macs` spreads any number of merges evenly over the blocks, so that the
cost can be met closely.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from accuracy.rivals.layers import (
    add_attention,
    attention_macs,
    attention_of,
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


class ToMe(Reduced):
    """A backbone that merges `merges[i]` pairs of tokens in block i, or as many as there are."""

    def __init__(self, backbone: Backbone, merges: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone, self.merges = backbone, merges

    @classmethod
    def for_macs(cls, backbone: Backbone, target: float) -> ToMe:
        """The number of merges, spread evenly over the blocks, whose cost is nearest to `target`."""
        depth = len(backbone.blocks)
        plans = [spread(total, depth) for total in range(backbone.tokens * depth // 2)]
        return cls(backbone, nearest(plans, lambda plan: cls(backbone, plan).macs(), target))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        x = self.backbone.embed(images)
        size = x.new_ones(*x.shape[:2], 1)  # patches that each token stands for
        for number, block in blocks_of(self.backbone):
            heads = heads_of(block, block.norm1(x))
            logits = heads.logits() + size.log()[:, None, None, :, 0]
            x = add_attention(block, x, join_heads(block, logits.softmax(dim=-1) @ heads.v))
            x, size = merge(x, size, heads.k.mean(dim=1), self._pairs(number, x.shape[1]))
            x = x + mlp_update(block, x)
        return self.backbone.head(self.backbone.final_norm(x))

    def macs(self) -> int:
        """MACs per image, the similarities included."""
        tokens, total = 1 + self.backbone.tokens, outer_macs(self.backbone, self.kept()[-1])
        head_width = self.backbone.attention_width // self._heads()
        for number, _ in blocks_of(self.backbone):
            total += attention_macs(self.backbone, tokens)
            if pairs := self._pairs(number, tokens):
                total += (tokens - tokens // 2) * (tokens // 2) * head_width
                tokens -= pairs
            total += mlp_macs(self.backbone, tokens)
        return total

    def kept(self) -> tuple[int, ...]:
        """Tokens behind the CLS after each block."""
        counts, tokens = [], 1 + self.backbone.tokens
        for number, _ in blocks_of(self.backbone):
            tokens -= self._pairs(number, tokens)
            counts.append(tokens - 1)
        return tuple(counts)

    def _pairs(self, block: int, tokens: int) -> int:
        """Half of the tokens, the CLS not counted, may merge at most."""
        return min(self.merges[block], (tokens - 1) // 2)

    def _heads(self) -> int:
        _, block = next(blocks_of(self.backbone))
        return attention_of(block).num_heads


def spread(total: int, parts: int) -> tuple[int, ...]:
    """`total` as `parts` whole numbers that differ by at most 1."""
    return tuple((i + 1) * total // parts - i * total // parts for i in range(parts))


def merge(x: Tensor, size: Tensor, keys: Tensor, pairs: int) -> tuple[Tensor, Tensor]:
    """Merge `pairs` of the tokens x (B, T, D) of sizes (B, T, 1), similar by keys (B, T, d).

    Returns the remaining tokens (B, T - pairs, D), CLS first, and their sizes. No gradient reaches the keys.
    """
    if not pairs:
        return x, size
    stay, go, partner = match(keys.detach(), pairs)
    everything = torch.cat([x * size, size], dim=-1)  # sums and counts travel together
    even, odd = everything[:, ::2], everything[:, 1::2]
    target = partner.unsqueeze(-1).expand(-1, -1, odd.shape[-1])
    odd = odd.scatter_add(1, target, take_rows(even, go))
    merged = torch.cat([take_rows(even, stay), odd], dim=1)
    return merged[..., :-1] / merged[..., -1:], merged[..., -1:]


def match(keys: Tensor, pairs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids among even tokens that stay (ascending) and that go (B, pairs), and the odd one each goes to."""
    unit = functional.normalize(keys, dim=-1)
    similarity = unit[:, ::2] @ unit[:, 1::2].transpose(1, 2)
    similarity[:, 0] = -torch.inf  # the CLS
    score, partner = similarity.max(dim=-1)
    order = score.argsort(dim=1, descending=True, stable=True)
    go, stay = order[:, :pairs], order[:, pairs:].sort(dim=1).values
    return stay, go, partner.gather(1, go)
