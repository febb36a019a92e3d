"""The gathered forward and the trained one both compute Eq. 16-18, written out here a third time.

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

from tofe_export.model.freezer import AdaptiveFreezer, StageRecord, StaticFreezer
from tofe_export.model.lv_vit import LvBlock
from tofe_export.model.masked import above, given, masked_forward, sampled, top_k
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


def written_out(model: ToFe, images: Tensor, keep: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
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
    expected, masks = written_out(model, images, KEEP)
    found = model(images, StaticFreezer(KEEP), record=records)
    trained = masked_forward(model, images, top_k(KEEP))
    for record, mask, stage in zip(records, masks, trained.stages, strict=True):
        assert torch.equal(record.spatial(model.backbone.tokens)[1], mask.bool())
        assert torch.equal(stage.mask, mask)
    assert difference(found, expected) <= 1e-5
    assert difference(trained.output, expected) <= 1e-5


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
    expected, _ = written_out(model, images, KEEP)
    assert difference(model(images, StaticFreezer(KEEP)), expected) <= 1e-5
    assert difference(masked_forward(model, images, top_k(KEEP)).output, expected) <= 1e-5


def test_approximators_matter(make_model: MakeModel, make_images: MakeImages, difference: Difference) -> None:
    """Negative case: the comparisons above would notice a forward that forgets Approx(X)."""
    model = make_model()
    images = make_images(model, 3)
    expected, _ = written_out(model, images, KEEP)
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
    expected, _ = written_out(model, images, KEEP)
    assert difference(0.5 * vit.aux_head(x).amax(dim=1) + expected * 0, expected) > 1e-3


POOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "avg": ("vit_small_patch16_224", {"global_pool": "avg"}),
    "max": ("vit_small_patch16_224", {"global_pool": "max"}),
    "avgmax": ("vit_small_patch16_224", {"global_pool": "avgmax"}),
    "map": ("vit_base_patch16_siglip_224", {}),
    "registers": ("vit_small_patch14_reg4_dinov2", {"patch_size": 16}),
}


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
@pytest.mark.parametrize("selector", ["mlp", "dynamicvit"])
@pytest.mark.parametrize("pool", POOLS)
def test_heads_read_kept_tokens_only(
    pool: str,
    selector: str,
    reuse: bool,
    make_model: MakeModel,
    make_images: MakeImages,
    difference: Difference,
) -> None:
    name, arguments = POOLS[pool]
    model = make_model(name, arguments, selector=selector, reuse=reuse)
    images = make_images(model, 3)
    found = masked_forward(model, images, top_k(KEEP)).output
    assert difference(found, model(images, StaticFreezer(KEEP))) <= 1e-5


def test_thresholds_equal_adaptive_inference(
    make_model: MakeModel, make_images: MakeImages, difference: Difference
) -> None:
    """Every image of a batch keeps its own number of tokens, as it would alone."""
    model, thresholds = make_model(), (0.3, 0.0, 50.0)
    images = make_images(model, 4)
    masked = masked_forward(model, images, above(thresholds))
    alone = torch.cat([model(image[None], AdaptiveFreezer(thresholds)) for image in images])
    assert difference(masked.output, alone) <= 1e-5
    counts = [stage.mask.sum(dim=1).tolist() for stage in masked.stages]
    assert len(set(counts[0])) > 1
    assert counts[2] == [1.0] * 4  # nobody reaches 50: the best token stays


def test_recovered_tokens(make_model: MakeModel, make_images: MakeImages) -> None:
    model = make_model()
    stages = masked_forward(model, make_images(model, 2), top_k(KEEP)).stages
    assert [stage.recovered is None for stage in stages] == [False, False, True]
    stages = masked_forward(make_model(reuse=False), make_images(model, 2), top_k(KEEP)).stages
    assert all(stage.recovered is None for stage in stages)


def test_sampling_is_the_hard_gumbel_softmax() -> None:
    """Same draws, same masks, same gradients as Eq. 9 on two classes, with torch's own formula."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 7, 2, generator=random, dtype=torch.float64).requires_grad_()
    gumbels = -torch.log(-torch.log(torch.rand(5, 7, 2, generator=random, dtype=torch.float64)))
    weights = torch.randn(5, 7, generator=random, dtype=torch.float64)
    for tau in (1.0, 0.5):
        soft = ((logits.log_softmax(dim=-1) + gumbels) / tau).softmax(dim=-1)[..., 0]
        expected = (soft > 0.5).double() + soft - soft.detach()
        scores, noise = logits[..., 0] - logits[..., 1], (gumbels[..., 0] - gumbels[..., 1])[:, None]
        mask = sampled(noise, tau)(scores, 0)
        assert set(mask.unique().tolist()) == {0.0, 1.0}
        torch.testing.assert_close(mask, expected)
        (wanted,) = torch.autograd.grad((expected * weights).sum(), logits)
        (found,) = torch.autograd.grad((mask * weights).sum(), logits)
        assert wanted.abs().max() > 0.01
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_gradients_reach_everything(
    name: str, reuse: bool, make_model: MakeModel, make_images: MakeImages
) -> None:
    model = make_model(name, reuse=reuse).requires_grad_(True)
    images = make_images(model, 3)
    noise = torch.randn(3, 3, model.backbone.tokens, generator=torch.Generator().manual_seed(2))
    masked_forward(model.train(), images, sampled(noise)).output.square().sum().backward()
    silent = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_masks_block_what_frozen_tokens_say(make_model: MakeModel, make_images: MakeImages) -> None:
    """A frozen token changes no other token, a kept one does."""
    model = make_model(locations=(0,))
    images = make_images(model, 1)
    mask = torch.ones(1, model.backbone.tokens)
    mask[0, 5] = 0
    changed = images.clone()
    changed[..., 16:32, 16:32] += 1.0  # patch 5 of a grid of 4
    with_mask, without = (masked_forward(model, i, given([mask])).output for i in (images, changed))
    torch.testing.assert_close(with_mask, without, atol=1e-5, rtol=0)
    seen, moved = (masked_forward(model, i, given([torch.ones_like(mask)])).output for i in (images, changed))
    assert (seen - moved).abs().max() > 1e-2


def test_batch_norms_keep_their_statistics(make_model: MakeModel, make_images: MakeImages) -> None:
    model = make_model("lvvit_s").train()
    before = {key: value.clone() for key, value in model.named_buffers()}
    masked_forward(model, make_images(model, 2), top_k(KEEP))
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.named_buffers())


def test_an_image_keeps_at_least_its_best_token() -> None:
    scores, noise = torch.tensor([[-9.0, -7.0, -8.0], [1.0, -1.0, -1.0]]), torch.zeros(2, 1, 3)
    assert sampled(noise)(scores, 0).tolist() == [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]
