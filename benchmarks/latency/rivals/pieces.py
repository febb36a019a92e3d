"""What the neighbours' graphs are made of: rows of a fixed batch, and attention on chosen rows.

Shapes: B images, T tokens (CLS first), D width, H heads, d head width, k rows.
"""

from __future__ import annotations

from typing import cast

import torch
from accuracy.rivals.layers import add_attention, attention_of, mlp_update
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from tofe_export.model.attention import split_heads
from tofe_export.model.backbone import Backbone


class Rows:
    """Rows of (B, T, D) by index (B, k), for a batch that is known: one Gather, one ScatterND."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def take(self, x: Tensor, index: Tensor) -> Tensor:
        """Rows of x at `index`: (B, k, D)."""
        return functional.embedding(self._flat(index, x.shape[1]), x.reshape(-1, x.shape[2]))

    def put(self, x: Tensor, index: Tensor, rows: Tensor) -> Tensor:
        """x with rows (B, k, D) in place of those at `index`."""
        flat = x.reshape(-1, x.shape[2]).index_put((self._flat(index, x.shape[1]),), rows)
        return flat.reshape(x.shape)

    def _flat(self, index: Tensor, tokens: int) -> Tensor:
        if self.batch == 1:
            return index
        return index + torch.arange(self.batch).unsqueeze(1) * tokens


def with_cls(index: Tensor, batch: int) -> Tensor:
    """Patch ids (B, k), from 0, as rows behind the CLS, the CLS first: (B, 1 + k)."""
    return torch.cat([torch.zeros(batch, 1, dtype=torch.int64), index + 1], dim=1)


class Projected:
    """One block's projections with the scale in the query's weights. A is H * d."""

    def __init__(self, block: Block) -> None:
        attention = attention_of(block)
        if not isinstance(attention.q_norm, nn.Identity) or not isinstance(attention.k_norm, nn.Identity):
            raise ValueError("expected attention without norms on queries and keys")
        self.block, self.heads = block, attention.num_heads
        q, k, v = attention.qkv.weight.chunk(3)
        self._weights = (q * attention.scale, k, v)
        self._biases: tuple[Tensor, ...] | None = None
        if attention.qkv.bias is not None:
            q, k, v = attention.qkv.bias.chunk(3)
            self._biases = (q * attention.scale, k, v)

    def all(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, H, T, d) of the same rows, by one product."""
        bias = None if self._biases is None else torch.cat(self._biases)
        return split_heads(functional.linear(x, torch.cat(self._weights), bias), 3, self.heads)

    def q(self, x: Tensor) -> Tensor:
        """Queries (B, T, A)."""
        return self._one(x, 0)

    def k(self, x: Tensor) -> Tensor:
        """Keys (B, T, A)."""
        return self._one(x, 1)

    def v(self, x: Tensor) -> Tensor:
        """Values (B, T, A)."""
        return self._one(x, 2)

    def apart(self, x: Tensor) -> Tensor:
        """(B, T, A) by heads: (B, H, T, d)."""
        (heads,) = split_heads(x, 1, self.heads)
        return heads

    def mixed(self, weights: Tensor, v: Tensor) -> Tensor:
        """Values (B, H, keys, d) mixed by attention (B, H, queries, keys), and projected: (B, queries, D)."""
        attention = attention_of(self.block)
        joined = (weights @ v).transpose(1, 2).flatten(2)
        return cast(Tensor, attention.proj(attention.norm(joined)))

    def _one(self, x: Tensor, part: int) -> Tensor:
        bias = None if self._biases is None else self._biases[part]
        return functional.linear(x, self._weights[part], bias)


def attention(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention (B, H, queries, keys) of q and k (B, H, T, d); `bias` (B, 1, 1, keys) is added first."""
    logits = q @ k.transpose(-2, -1)
    weights: Tensor = (logits if bias is None else logits + bias).softmax(dim=-1)
    return weights


def whole_block(block: Block, x: Tensor) -> Tensor:
    """A block as it is, on all rows (B, T, D)."""
    projected = Projected(block)
    q, k, v = projected.all(block.norm1(x))
    return add_mlp(block, add_attention(block, x, projected.mixed(attention(q, k), v)))


def last_block(block: Block, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """The last block for the CLS alone: (B, 1, D)."""
    projected, normed = Projected(block), block.norm1(x)
    q, k, v = (
        projected.apart(part)
        for part in (projected.q(normed[:, :1]), projected.k(normed), projected.v(normed))
    )
    return add_mlp(block, add_attention(block, x[:, :1], projected.mixed(attention(q, k, bias), v)))


def add_mlp(block: Block, x: Tensor) -> Tensor:
    """The residual around the MLP."""
    return x + mlp_update(block, x)


def classified(backbone: Backbone, cls: Tensor) -> Tensor:
    """Logits (B, C) of CLS tokens (B, 1, D)."""
    return backbone.head(backbone.final_norm(cls))


def last_block_macs(backbone: Backbone, tokens: int) -> int:
    """MACs of `last_block` on T tokens."""
    width, attention = backbone.width, backbone.attention_width
    mlp = backbone.token_macs() - 4 * width * attention
    return 2 * tokens * width * attention + 2 * tokens * attention + 2 * width * attention + mlp
