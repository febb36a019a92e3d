"""Attention written out: timm's numbers from timm's own parameters, and no mask."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from torch import nn

from tofe_export.model.attention import ManualAttention, ManualLatentPool, write_out_attention

Difference = Callable[..., float]

X = torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "options",
    [
        {"qkv_bias": True},
        {"qkv_bias": False, "proj_bias": False},
        {"qk_norm": True, "norm_layer": nn.LayerNorm},
        {"scale_norm": True, "norm_layer": nn.LayerNorm},
        {"gated": True, "qkv_bias": True},
        {"attn_head_dim": 8},
    ],
)
def test_attention_equals_timm(
    options: dict[str, Any], draw: Callable[..., None], difference: Difference
) -> None:
    plain = Attention(48, num_heads=3, **options).eval()
    draw(plain)
    assert difference(ManualAttention.of(copy.deepcopy(plain))(X), plain(X)) <= 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"norm_layer": nn.LayerNorm},
        {"latent_len": 4, "pool_type": "avg"},
        {"latent_dim": 24},
        {"qk_norm": True},
        {"out_features": 0},
        {"q_proj": False},
    ],
)
def test_latent_pool_equals_timm(
    options: dict[str, Any], draw: Callable[..., None], difference: Difference
) -> None:
    plain = AttentionPoolLatent(48, num_heads=3, **options).eval()
    draw(plain)
    assert difference(ManualLatentPool.of(copy.deepcopy(plain))(X), plain(X)) <= 1e-5


def test_modules_are_replaced_in_place_and_share_their_parameters() -> None:
    inner = nn.Sequential(Attention(48, num_heads=3), AttentionPoolLatent(48, num_heads=3))
    module = nn.ModuleDict({"inner": inner, "norm": nn.LayerNorm(48)})
    before = dict(module.named_parameters())
    write_out_attention(module)
    assert [type(child) for child in inner] == [ManualAttention, ManualLatentPool]
    after = dict(module.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)


def test_masks_are_refused() -> None:
    attention = ManualAttention(48, num_heads=3)
    with pytest.raises(ValueError, match="takes no mask"):
        attention(X, attn_mask=torch.ones(7, 7))
    with pytest.raises(ValueError, match="takes no mask"):
        attention(X, is_causal=True)
    with pytest.raises(ValueError, match="takes no mask"):
        ManualLatentPool.of(AttentionPoolLatent(48, num_heads=3))(X, attn_mask=torch.ones(7, 7))
