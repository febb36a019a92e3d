"""Attention written out: timm's numbers from timm's own parameters, and Eq. 17-18 with a mask."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.attention import Attention
from timm.layers.attention_pool import AttentionPoolLatent
from torch import nn

from tofe_export.model.attention import (
    ManualAttention,
    ManualLatentPool,
    attend_masked,
    visibility,
    write_out_attention,
)

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


def test_masks_of_another_kind_are_refused() -> None:
    attention = ManualAttention(48, num_heads=3)
    with pytest.raises(ValueError, match="expected a mask over tokens"):
        attention(X, attn_mask=torch.ones(7, 7))
    with pytest.raises(ValueError, match="not causal"):
        attention(X, is_causal=True)


def test_a_mask_of_ones_changes_nothing(difference: Difference) -> None:
    attention, pool = (
        ManualAttention(48, num_heads=3),
        ManualLatentPool.of(AttentionPoolLatent(48, num_heads=3)),
    )
    for module in (attention, pool):
        assert difference(module(X, attn_mask=torch.ones(X.shape[:2])), module(X)) <= 1e-5


def test_masked_tokens_are_not_read(difference: Difference) -> None:
    attention, pool = (
        ManualAttention(48, num_heads=3),
        ManualLatentPool.of(AttentionPoolLatent(48, num_heads=3)),
    )
    mask = torch.ones(X.shape[:2])
    mask[:, 4:] = 0
    assert difference(attention(X, attn_mask=mask)[:, :4], attention(X[:, :4])) <= 1e-5
    assert difference(pool(X, attn_mask=mask), pool(X[:, :4])) <= 1e-5


def test_visibility_is_eq_17() -> None:
    mask = torch.tensor([[1.0, 0.0, 0.25]])
    expected = torch.tensor([[[1.0, 0.0, 0.25], [1.0, 1.0, 0.25], [1.0, 0.0, 1.0]]])
    assert torch.equal(visibility(mask), expected)


def test_a_far_larger_masked_key_leaves_finite_gradients() -> None:
    q = torch.ones(1, 1, 2, 4)
    k = torch.stack([torch.full((4,), -50.0), torch.full((4,), 50.0)])[None, None].requires_grad_()
    mask = torch.tensor([[1.0, 0.0]], requires_grad=True)
    attend_masked(q, k, torch.randn(1, 1, 2, 4), 1.0, visibility(mask)).sum().backward()
    assert mask.grad is not None
    assert k.grad is not None
    assert torch.isfinite(mask.grad).all()
    assert torch.isfinite(k.grad).all()
