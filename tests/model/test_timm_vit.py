"""Every family of timm's VisionTransformer, small: our pieces give what an untouched timm model gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from tofe_export.model.attention import ManualAttention
from tofe_export.model.backbone import create_backbone
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.tofe import Structure, ToFe

Difference = Callable[..., float]

SMALL: dict[str, Any] = {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3}
LOGITS = SMALL | {"num_classes": 10}
# name: arguments, P, N, output
FAMILIES: dict[str, tuple[str, dict[str, Any], int, int, str]] = {
    "deit": ("deit_tiny_patch16_224", LOGITS, 1, 16, "logits"),
    "deit, non-square": ("deit_tiny_patch16_224", LOGITS | {"img_size": [48, 80]}, 1, 15, "logits"),
    "deit, average": ("deit_tiny_patch16_224", LOGITS | {"global_pool": "avg"}, 1, 16, "logits"),
    "deit, average and maximum": (
        "deit_tiny_patch16_224",
        LOGITS | {"global_pool": "avgmax"},
        1,
        16,
        "logits",
    ),
    "deit, headless": ("deit_tiny_patch16_224", SMALL | {"num_classes": 0}, 1, 16, "features"),
    "distilled": ("deit_tiny_distilled_patch16_224", LOGITS, 2, 16, "logits"),
    "deit iii": ("deit3_small_patch16_224", LOGITS, 1, 16, "logits"),
    "augreg": ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", LOGITS, 1, 16, "logits"),
    "dinov2": ("vit_small_patch14_dinov2", SMALL | {"img_size": 56}, 1, 16, "features"),
    "dinov2, registers": ("vit_small_patch14_reg4_dinov2", SMALL | {"img_size": 56}, 5, 16, "features"),
    "siglip": ("vit_base_patch16_siglip_224", SMALL, 0, 16, "features"),
    "siglip, average": ("vit_base_patch16_siglip_gap_224", SMALL, 0, 16, "features"),
    "map, registers": ("vit_so150m_patch16_reg4_map_256", LOGITS, 4, 16, "logits"),
    "clip": ("vit_base_patch16_clip_quickgelu_224", LOGITS, 1, 16, "logits"),
    "norm after the residual": ("vit_base_patch16_rpn_224", LOGITS | {"class_token": False}, 0, 16, "logits"),
    "made for changing sizes": (
        "vit_intern300m_patch14_448",
        LOGITS | {"img_size": 56, "dynamic_img_size": False},
        1,
        16,
        "logits",
    ),
    "swiglu, no positions at the class token": (
        "aimv2_large_patch14_224",
        SMALL | {"img_size": 56},
        0,
        16,
        "features",
    ),
    "scaled attention": ("beit3_base_patch16_224", LOGITS, 1, 16, "logits"),
    "qk norm": ("deit_tiny_patch16_224", LOGITS | {"qk_norm": True}, 1, 16, "logits"),
}
families = pytest.mark.parametrize("family", FAMILIES)


@families
def test_backbone_equals_timm(family: str, draw: Callable[..., None], difference: Difference) -> None:
    name, arguments, prefix, tokens, output = FAMILIES[family]
    backbone = create_backbone(name, arguments).eval()
    draw(backbone)
    assert (backbone.prefix, backbone.tokens, backbone.output) == (prefix, tokens, output)
    assert all(isinstance(block.attn, ManualAttention) for block in backbone.blocks)

    plain: Any = timm.create_model(name, **arguments).eval()
    plain.load_state_dict(backbone.vit.state_dict())
    assert not any(isinstance(module, ManualAttention) for module in plain.modules())
    images = torch.randn(3, 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, x = plain(images), backbone.embed(images)
        assert x.shape == (3, prefix + tokens, backbone.width)
        for block in backbone.blocks:
            x = block(x)
        assert difference(backbone.head(backbone.final_norm(x)), expected) <= 1e-5
        assert difference(backbone.final_norm(x), plain.forward_features(images)) <= 1e-5
        assert difference(backbone.dense(images), expected) <= 1e-5
        every_token = StaticFreezer([tokens] * 3)
        assert difference(ToFe(backbone, Structure((1, 2, 3)))(images, every_token), expected) <= 1e-5


def test_timm_runs_its_own_attention_there() -> None:
    """The comparison above is with the fused operator, which our forward never uses."""
    backbone = create_backbone("deit_tiny_patch16_224", LOGITS).eval()
    plain: Any = timm.create_model("deit_tiny_patch16_224", **LOGITS).eval()
    assert plain.blocks[0].attn.fused_attn
    fused = torch.nn.functional.scaled_dot_product_attention
    calls: list[int] = []

    def counting(*tensors: Any, **options: Any) -> Tensor:
        calls.append(1)
        return fused(*tensors, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
        plain(torch.zeros(1, 3, 64, 64))
        assert len(calls) == 4
        backbone.dense(torch.zeros(1, 3, 64, 64))
        assert len(calls) == 4


@families
def test_state_dict_has_the_official_keys(family: str) -> None:
    name, arguments, *_ = FAMILIES[family]
    with torch.device("meta"):
        ours = {k: v.shape for k, v in create_backbone(name, arguments).vit.state_dict().items()}
        theirs = {k: v.shape for k, v in timm.create_model(name, **arguments).state_dict().items()}
    assert ours == theirs


@pytest.mark.parametrize(
    ("name", "millions"), [("deit_small_patch16_224", 22.05), ("deit_base_patch16_224", 86.57)]
)
def test_parameter_counts(name: str, millions: float) -> None:
    with torch.device("meta"):
        vit = create_backbone(name).vit
    assert round(sum(p.numel() for p in vit.parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize(
    ("name", "crop", "mode", "interpolation", "mean"),
    [
        ("deit_small_patch16_224", 0.875, "center", "bicubic", 0.485),
        ("vit_small_patch16_224", 0.9, "center", "bicubic", 0.5),
        ("vit_base_patch16_siglip_224", 0.9, "center", "bicubic", 0.5),
        ("vit_small_patch14_dinov2", 1.0, "center", "bicubic", 0.485),
    ],
)
def test_preprocessing(name: str, crop: float, mode: str, interpolation: str, mean: float) -> None:
    found = create_backbone(name, SMALL | {"img_size": 112}).preprocessing()
    assert (found.size, found.crop, found.crop_mode) == ((112, 112), crop, mode)
    assert (found.interpolation, found.mean[0]) == (interpolation, mean)
