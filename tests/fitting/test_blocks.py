"""Refitting the blocks' last layers for fewer keys."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tofe_export.calibration.divergence import Judge
from tofe_export.fitting import blocks
from tofe_export.fitting.blocks import last_layer, refit
from tofe_export.fitting.original import Original
from tofe_export.model.tofe import ToFe

Make = Callable[..., ToFe]
Images = Callable[..., list[Tensor]]
KEEP = (6, 4, 3)


@pytest.mark.parametrize("kind", ["timm", "layer scale", "average pooling", "lv_vit", "headless"])
def test_answers_come_nearer_to_the_dense_ones_on_other_images(
    kind: str, make_model: Make, make_images: Images
) -> None:
    model = make_model(kind)
    count = 64 if kind == "lv_vit" else 256  # whose convolutions take long
    original, others = Original(model.backbone), make_images(model, count // 4, seed=1)
    with Judge(model, others, original.answer) as judge:
        before = judge.judge([KEEP])[0].divergence
        done = refit(model, original, make_images(model, count), KEEP, count, lambda text: None)
        after = judge.judge([KEEP])[0].divergence
    assert done == [1, 2, 3]
    assert after < 0.9 * before


def test_blocks_before_the_first_selection_stay(make_model: Make, make_images: Images) -> None:
    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    refit(model, Original(model.backbone), make_images(model), KEEP, 64, lambda text: None)
    changed = [name for name, weight in model.state_dict().items() if not weight.equal(before[name])]
    assert sorted(changed) == sorted(
        f"backbone.vit.blocks.{number}.mlp.fc2.{part}" for number in (1, 2, 3) for part in ("weight", "bias")
    )


def test_where_nothing_is_frozen_nothing_is_to_be_done(make_model: Make, make_images: Images) -> None:
    model = make_model()
    layer = last_layer(model.backbone.blocks[2])
    assert layer is not None
    before = layer.weight.clone()
    refit(model, Original(model.backbone), make_images(model), (16, 16, 16), 64, lambda text: None)
    assert torch.allclose(layer.weight, before, atol=1e-4)


def test_what_follows_the_layer_must_be_linear(make_model: Make, make_images: Images) -> None:
    model = make_model()
    block, x = model.backbone.blocks[1], torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0))
    layer = last_layer(block)
    assert layer is not None
    scale = blocks._scale(block, layer, x)
    assert scale is not None
    assert torch.allclose(scale, torch.ones(24), atol=1e-3)
    block.ls2 = nn.Tanh()
    assert blocks._scale(block, layer, x) is None
    assert 1 not in refit(model, Original(model.backbone), make_images(model), KEEP, 64, lambda text: None)


def test_a_block_without_such_a_layer_is_left_alone() -> None:
    assert last_layer(nn.Identity()) is None
    block = nn.Module()
    block.mlp = nn.Module()
    block.mlp.fc2 = nn.Linear(4, 4, bias=False)
    assert last_layer(block) is None
