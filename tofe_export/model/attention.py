"""Attention written out by hand, on timm's own parameters.

timm's `Attention` ends in `scaled_dot_product_attention`, which the exporter splits into a scale on both
Q and K; TensorRT 10.7 computed that form wrongly (decision 3). The classes here keep every parameter and
its name, and spell the arithmetic out: the scale on Q, QK^T, softmax, times V. Two more reasons to own it:

- `unflatten` / `flatten` never mention the number of tokens, so one trace serves every keep count;
- Q, K and V come apart as one transpose and one split along the heads: four ONNX nodes instead of nine.

Both classes also take a mask over tokens, (B, T) with gradient, for training (Eq. 17-18).
"""

from __future__ import annotations

from typing import cast

import torch
from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from torch import Tensor, nn

_EPS = 1e-6


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Split a fused projection (B, T, parts * H * d) into `parts` tensors (B, H, T, d)."""
    x = x.unflatten(-1, (parts * heads, -1)).transpose(1, 2)  # (B, parts * H, T, d)
    if parts == 1:
        return (x,)
    pieces: tuple[Tensor, ...] = x.split(heads, dim=1)
    return pieces


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Eq. 3 on (B, H, T, d), heads merged again: (B, T, H * d)."""
    attention = ((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1)
    return (attention @ v).transpose(1, 2).flatten(2)


def attend_masked(q: Tensor, k: Tensor, v: Tensor, scale: float, visible: Tensor) -> Tensor:
    """Eq. 18 on (B, H, T, d), heads merged again: (B, T, H * d). `visible` is G, (B, T or 1, T), 0 to 1.

    DynamicViT's form of it: float32, the row's maximum over all keys, and a trace of the uniform
    distribution (1e-6) that keeps the gradient of a row finite when every visible key is far below it.
    """
    scores = (q * scale) @ k.transpose(-2, -1)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    weights = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp() * visible.unsqueeze(1)
    attention = (weights + _EPS / k.shape[-2]) / (weights.sum(dim=-1, keepdim=True) + _EPS)
    return (attention.to(v.dtype) @ v).transpose(1, 2).flatten(2)


def visibility(mask: Tensor) -> Tensor:
    """G of Eq. 17, (B, T, T), from a token mask (B, T): masked tokens are keys for themselves alone."""
    return mask.unsqueeze(1) + (1 - mask.unsqueeze(1)) * torch.eye(mask.shape[1], device=mask.device)


class ManualAttention(Attention):
    """timm's self-attention with the arithmetic of Eq. 3 written out. Modifications: `forward` only."""

    @classmethod
    def of(cls, attention: Attention) -> ManualAttention:
        """Wrap `attention`, sharing its parameters and their names."""
        manual = cls.__new__(cls)
        manual.__dict__ = attention.__dict__
        return manual

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Self-attention on (B, T, D); `attn_mask` masks tokens (B, T), not pairs of them as in timm."""
        if is_causal:
            raise ValueError("ManualAttention is not causal: every token sees every token that is kept")
        if attn_mask is not None and attn_mask.shape != x.shape[:2]:
            raise ValueError(
                f"expected a mask over tokens {tuple(x.shape[:2])}, found {tuple(attn_mask.shape)}"
            )
        q, k, v = split_heads(self.qkv(x), 3, self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if attn_mask is None:
            mixed = self.norm(attend(q, k, v, self.scale))
        else:
            mixed = self.norm(attend_masked(q, k, v, self.scale, visibility(attn_mask)))
        if self.gate is not None:
            mixed = mixed * self.gate(x).sigmoid()
        return cast(Tensor, self.proj(mixed))


class ManualLatentPool(AttentionPoolLatent):
    """timm's attention pooling (SigLIP) without the batch-sized latent. Modifications: `forward` only.

    The query depends on no input: it stays (1, H, 1, d) and broadcasts, so no Expand is traced.
    """

    @classmethod
    def of(cls, pool: AttentionPoolLatent) -> ManualLatentPool:
        """Wrap `pool`, sharing its parameters and their names."""
        manual = cls.__new__(cls)
        manual.__dict__ = pool.__dict__
        return manual

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Pool (B, T, D) into (B, D); tokens where `attn_mask` (B, T) is 0 are not read."""
        (q,) = split_heads(self.q(self.latent), 1, self.num_heads)  # (1, H, latents, d)
        k, v = split_heads(self.kv(x), 2, self.num_heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if attn_mask is None:
            mixed = attend(q, k, v, self.scale)
        else:
            mixed = attend_masked(q, k, v, self.scale, attn_mask.unsqueeze(1))
        pooled = self.proj(mixed)
        if self.mlp is not None:
            pooled = pooled + self.mlp(self.norm(pooled))
        return cast(Tensor, pooled[:, 0] if self.pool == "token" else pooled.mean(dim=1))


def write_out_attention(module: nn.Module) -> None:
    """Replace timm's attention modules inside `module` by the classes above, in place."""
    for child in list(module.modules()):
        for name, value in list(child.named_children()):
            if type(value) is Attention:
                setattr(child, name, ManualAttention.of(value))
            elif type(value) is AttentionPoolLatent:
                setattr(child, name, ManualLatentPool.of(value))
