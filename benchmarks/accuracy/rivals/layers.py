"""What every neighbour needs of a block: its attention taken apart, rows gathered, and prices.

Shapes: B images, T tokens (CLS first), N patch tokens, D width, H heads, d head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor

from tofe_export.errors import UnsupportedModel
from tofe_export.model.attention import ManualAttention, split_heads
from tofe_export.model.backbone import Backbone


class Heads(NamedTuple):
    """Queries, keys and values, each (B, H, T, d); queries are scaled already."""

    q: Tensor
    k: Tensor
    v: Tensor

    def logits(self) -> Tensor:
        """Attention logits (B, H, T, T)."""
        return self.q @ self.k.transpose(-2, -1)


def blocks_of(backbone: Backbone) -> Iterator[tuple[int, Block]]:
    """The blocks with their numbers. Raises UnsupportedModel unless they are timm's and there is one CLS."""
    if backbone.prefix != 1:
        raise UnsupportedModel(f"neighbours need exactly one prefix token, the CLS, found {backbone.prefix}")
    for number, block in enumerate(backbone.blocks):
        if not isinstance(block, Block):
            raise UnsupportedModel(f"neighbours need timm's Block, found {type(block).__name__}")
        yield number, block


def attention_of(block: Block) -> ManualAttention:
    """The block's attention."""
    return cast(ManualAttention, block.attn)


def heads_of(block: Block, x: Tensor) -> Heads:
    """Project normed tokens (B, T, D)."""
    attention = attention_of(block)
    q, k, v = split_heads(attention.qkv(x), 3, attention.num_heads)
    return Heads(attention.q_norm(q) * attention.scale, attention.k_norm(k), v)


def join_heads(block: Block, mixed: Tensor) -> Tensor:
    """Merge heads (B, H, T, d) and project: (B, T, D)."""
    attention = attention_of(block)
    return cast(Tensor, attention.proj(attention.norm(mixed.transpose(1, 2).flatten(2))))


def add_attention(block: Block, x: Tensor, attended: Tensor) -> Tensor:
    """The residual around the attention."""
    return x + cast(Tensor, block.drop_path1(block.ls1(attended)))


def mlp_update(block: Block, x: Tensor) -> Tensor:
    """What the MLP adds to x (B, T, D)."""
    return cast(Tensor, block.drop_path2(block.ls2(block.mlp(block.norm2(x)))))


def take_rows(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, T, c) at index (B, k): (B, k, c)."""
    return rows.gather(1, index.unsqueeze(-1).expand(-1, -1, rows.shape[-1]))


def with_cls(index: Tensor) -> Tensor:
    """Patch ids (B, K), from 0, as rows behind the CLS, the CLS first: (B, 1 + K)."""
    return torch.cat([index.new_zeros(len(index), 1), index + 1], dim=1)


def best(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Ids of the `keep` best of scores (B, N), ties to the lowest id, and of the rest."""
    order = scores.argsort(dim=1, descending=True, stable=True)
    return order[:, :keep], order[:, keep:]


def outer_macs(backbone: Backbone, kept: int) -> int:
    """MACs of stem and head; `kept` patch tokens reach the head."""
    head = backbone.head_cost()
    return backbone.stem_macs() + head.fixed + head.per_token * kept


def attention_macs(backbone: Backbone, tokens: int) -> int:
    """MACs of one block's attention, projections included, on T tokens."""
    linear = 4 * backbone.width * backbone.attention_width
    return tokens * linear + 2 * tokens * tokens * backbone.attention_width


def mlp_macs(backbone: Backbone, tokens: int) -> int:
    """MACs of one block's MLP on T tokens."""
    return tokens * (backbone.token_macs() - 4 * backbone.width * backbone.attention_width)
