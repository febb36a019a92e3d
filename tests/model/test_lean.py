"""The exported form of a model gives the model's answers, and leaves the model alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.layers import LayerScale
from torch import nn

from tofe_export.model.backbone import create_backbone
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.lean import FirstRows, lean_copy
from tofe_export.model.tofe import Structure, ToFe

TINY: dict[str, Any] = {"img_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 5}
PATCHES = {"patch_size": 8}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "DeiT": ("deit_tiny_patch16_224", TINY | PATCHES),
    "distilled": ("deit_tiny_distilled_patch16_224", TINY | PATCHES),
    "DeiT-III": ("deit3_small_patch16_224", TINY | PATCHES | {"init_values": 0.3}),
    "registers": ("vit_small_patch14_reg4_dinov2", TINY | {"patch_size": 8, "init_values": 0.3}),
    "QK norms": ("deit_tiny_patch16_224", TINY | PATCHES | {"qk_norm": True, "scale_attn_norm": True}),
    "average": ("deit_tiny_patch16_224", TINY | PATCHES | {"global_pool": "avg"}),
    "LV-ViT": ("lvvit_s", TINY | {"img_size": 64}),
}


def drawn(form: str, **structure: Any) -> ToFe:
    """A model in float64 none of whose parameters is trivial."""
    name, arguments = FORMS[form]
    torch.manual_seed(0)
    backbone = create_backbone(name, arguments)
    model = ToFe(backbone, Structure(backbone.locations, **structure)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return model


def images_for(model: ToFe) -> torch.Tensor:
    return torch.randn(2, 3, *model.backbone.image_size, dtype=torch.float64)


@pytest.mark.parametrize("output", ["head", "tokens"])
@pytest.mark.parametrize("form", FORMS)
def test_it_gives_the_same_answers(form: str, output: str) -> None:
    model = drawn(form)
    lean, images = lean_copy(model, output), images_for(model)
    for freezer in (StaticFreezer((7, 5, 3)), StaticFreezer([model.backbone.tokens] * 3)):
        with torch.inference_mode():
            expected, found = (m(images, freezer, output) for m in (model, lean))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


def test_a_block_as_approximator_is_folded_too() -> None:
    model = drawn("DeiT-III", approximator="block")
    lean, images = lean_copy(model), images_for(model)
    assert not [module for module in lean.modules() if isinstance(module, LayerScale)]
    with torch.inference_mode():
        expected, found = (m(images, StaticFreezer((7, 5, 3))) for m in (model, lean))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("form", "rows"), [("DeiT", 1), ("distilled", 2), ("registers", 1)])
def test_the_last_block_computes_what_the_head_reads(form: str, rows: int) -> None:
    model = drawn(form)
    last = lean_copy(model).backbone.blocks[-1]
    assert isinstance(last, FirstRows)
    assert last(torch.randn(2, 9, 24, dtype=torch.float64)).shape == (2, rows, 24)


@pytest.mark.parametrize(("form", "output"), [("average", "head"), ("LV-ViT", "head"), ("DeiT", "tokens")])
def test_heads_that_read_patches_get_all_of_them(form: str, output: str) -> None:
    assert not isinstance(lean_copy(drawn(form), output).backbone.blocks[-1], FirstRows)


@pytest.mark.parametrize("form", FORMS)
def test_the_model_stays_as_it_was(form: str) -> None:
    model = drawn(form)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lean = lean_copy(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert lean.backbone.blocks[0].norm1.weight is model.backbone.blocks[0].norm1.weight  # type: ignore[union-attr]
