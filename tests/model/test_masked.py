"""The gathered forward computes what the paper trains: Eq. 16-18, written out here with masks.

All N tokens stay in the tensor. In a stage with mask M a frozen token is a key for itself alone, and the
stage ends in M * blocks(X) + (1 - M) * (X_entry + Approx(X_entry)). Prefix tokens always have mask 1. Heads
that read patch tokens read the last stage's kept ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tofe_export.model.freezer import StageRecord, StaticFreezer
from tofe_export.model.lv_vit import LvBlock
from tofe_export.model.tofe import ToFe

MakeModel = Callable[..., ToFe]
MakeImages = Callable[..., Tensor]
Difference = Callable[..., float]
KEEP = (9, 6, 3)


def masked_attention(attention: Any, x: Tensor, mask: Tensor) -> Tensor:
    """Eq. 17-18 on x (B, T, D), mask (B, T)."""
    batch, count, _ = x.shape
    qkv = attention.qkv(x).reshape(batch, count, 3, attention.num_heads, attention.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, T, d) each
    others = mask[:, None, :].expand(batch, count, count)
    g = torch.where(torch.eye(count, dtype=torch.bool), torch.ones(()), others)[:, None]
    s = attention.q_norm(q) @ attention.k_norm(k).transpose(-2, -1) / attention.head_dim**0.5
    weights = (s - s.amax(dim=-1, keepdim=True)).exp() * g
    mixed = (weights / weights.sum(dim=-1, keepdim=True)) @ v
    projected: Tensor = attention.proj(mixed.transpose(1, 2).reshape(batch, count, -1))
    return projected


def masked_block(block: Any, x: Tensor, mask: Tensor) -> Tensor:
    lv_vit = isinstance(block, LvBlock)
    mixed = masked_attention(block.attn, block.norm1(x), mask)
    x = x + (mixed / 2 if lv_vit else block.ls1(mixed))
    mixed = block.mlp(block.norm2(x))
    x = x + (mixed / 2 if lv_vit else block.ls2(mixed))
    return x


def masked_head(model: ToFe, x: Tensor, mask: Tensor) -> Tensor:
    """The head on final-normed tokens (B, P + N, D) of which only prefix and kept patches count."""
    vit: Any = model.backbone.vit
    patches = x[:, model.backbone.prefix :]
    if model.backbone.name.startswith("lvvit"):
        aux = vit.aux_head(patches).masked_fill(mask[..., None] == 0, -torch.inf)
        logits: Tensor = vit.head(x[:, 0]) + 0.5 * aux.amax(dim=1)
    elif "distilled" in model.backbone.name:
        logits = (vit.head(x[:, 0]) + vit.head_dist(x[:, 1])) / 2
    elif vit.global_pool == "avg":
        mean = (patches * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        logits = vit.head(vit.fc_norm(mean))
    else:
        logits = vit.head(vit.fc_norm(x[:, 0]))
    return logits


def masked_forward(model: ToFe, images: Tensor, keep: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Logits and the S masks (B, N) that its own selections made."""
    prefix, structure = model.backbone.prefix, model.structure
    x = model.backbone.embed(images)
    for block in model.backbone.blocks[: structure.locations[0]]:
        x = block(x)
    alive, masks = torch.ones(len(images), model.backbone.tokens), []
    for s, (start, end) in enumerate(
        zip(structure.locations, (*structure.locations[1:], len(model.backbone.blocks)), strict=True)
    ):
        log_probability = model.selectors[s].logits(x[:, prefix:]).log_softmax(dim=-1)[..., 0]  # type: ignore[operator]
        if not structure.reuse:
            log_probability = log_probability.masked_fill(alive == 0, -torch.inf)
        best = log_probability.topk(keep[s], dim=1).indices
        mask = torch.zeros_like(alive).scatter(1, best, 1.0)
        alive = alive if structure.reuse else mask
        masks.append(mask)
        full = nn.functional.pad(mask, (prefix, 0), value=1.0)
        entry = x
        for block in model.backbone.blocks[start:end]:
            x = masked_block(block, x, full)
        if structure.reuse and s + 1 < len(structure.locations):
            approximated = torch.cat([x[:, :prefix], model.approximators[s](entry[:, prefix:])], dim=1)
            x = full[..., None] * x + (1 - full[..., None]) * approximated
    return masked_head(model, model.backbone.final_norm(x), masks[-1]), masks


MODELS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "deit": ("deit_tiny_patch16_224", {"depth": 6}, (1, 3, 4)),
    "deit, two at the start": ("deit_tiny_patch16_224", {"depth": 5}, (0, 1, 4)),
    "distilled": ("deit_tiny_distilled_patch16_224", {}, (1, 2, 3)),
    "layer scale": ("deit3_small_patch16_224", {}, (1, 2, 3)),
    "average pooling": ("vit_small_patch16_224", {"global_pool": "avg"}, (1, 2, 3)),
    "non-square": ("deit_tiny_patch16_224", {"img_size": [48, 80]}, (1, 2, 3)),
    "lv-vit": ("lvvit_s", {"depth": 6}, (1, 3, 4)),
}


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
@pytest.mark.parametrize("case", MODELS)
def test_gathered_equals_masked(
    case: str, reuse: bool, make_model: MakeModel, make_images: MakeImages, difference: Difference
) -> None:
    name, arguments, locations = MODELS[case]
    model = make_model(name, arguments, locations, reuse=reuse)
    images, records = make_images(model, 3), list[StageRecord]()
    expected, masks = masked_forward(model, images, KEEP)
    found = model(images, StaticFreezer(KEEP), record=records)
    for record, mask in zip(records, masks, strict=True):
        assert torch.equal(record.spatial(model.backbone.tokens)[1], mask.bool())
    assert difference(found, expected) <= 1e-5


@pytest.mark.parametrize("selector", ["mlp", "dynamicvit"])
@pytest.mark.parametrize("approximator", ["bottleneck", "identity", "depthwise", "block"])
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_every_structure(
    name: str,
    approximator: str,
    selector: str,
    make_model: MakeModel,
    make_images: MakeImages,
    difference: Difference,
) -> None:
    model = make_model(name, selector=selector, approximator=approximator)
    images = make_images(model, 3)
    expected, _ = masked_forward(model, images, KEEP)
    assert difference(model(images, StaticFreezer(KEEP)), expected) <= 1e-5


def test_approximators_matter(make_model: MakeModel, make_images: MakeImages, difference: Difference) -> None:
    """Negative case: the comparisons above would notice a forward that forgets Approx(X)."""
    model = make_model()
    images = make_images(model, 3)
    expected, _ = masked_forward(model, images, KEEP)
    for approximator in model.approximators:
        for parameter in approximator.parameters():
            nn.init.zeros_(parameter)
    assert difference(model(images, StaticFreezer(KEEP)), expected) > 1e-3


def test_a_maximum_over_all_patches_would_be_noticed(
    make_model: MakeModel, make_images: MakeImages, difference: Difference
) -> None:
    """Negative case: LV-ViT's auxiliary maximum over frozen tokens too is another answer."""
    model = make_model("lvvit_s")
    images = make_images(model, 3)
    x = model(images, StaticFreezer(KEEP), "tokens")
    vit: Any = model.backbone.vit
    expected, _ = masked_forward(model, images, KEEP)
    assert difference(0.5 * vit.aux_head(x).amax(dim=1) + expected * 0, expected) > 1e-3
