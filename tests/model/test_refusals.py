"""Architectures that ToFe cannot be put into are refused by name, with the reason and, if any, a way."""

from __future__ import annotations

from typing import Any

import pytest
import timm

from tofe_export.errors import UnsupportedModel
from tofe_export.model.backbone import create_backbone

SMALL = {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3, "num_classes": 10}
ROTARY = "rotary position embeddings, which enter in every block"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swin_tiny_patch4_window7_224", "attends inside windows or pyramids of a fixed grid"),
        ("vit_small_patch16_dinov3", ROTARY),
        ("vit_small_plus_patch16_dinov3", ROTARY),
        ("eva02_tiny_patch14_224", ROTARY),
        ("vit_small_patch16_rope_224", ROTARY),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock blocks .* parallel blocks are not"),
        ("vit_base_patch16_xp_224", "ParallelScalingBlock blocks .* parallel blocks are not"),
        ("vit_pwee_patch16_reg1_gap_256", "ParallelScalingBlock blocks .* parallel blocks are not"),
        (
            "vit_dwee_patch16_reg1_gap_256",
            "uses DiffAttention in block 0: only timm's .*Attention is supported",
        ),
        ("vit_srelpos_small_patch16_224", "needs a plain VisionTransformer"),
        ("vit_tiny_r_s16_p8_224", "HybridEmbed stem"),
        ("vit_intern300m_patch14_448", "pass --model-arg dynamic_img_size=false"),
        ("resnet18", "resnet18 is a ResNet: ToFe needs a plain VisionTransformer"),
    ],
)
def test_architectures(name: str, reason: str) -> None:
    assert timm.is_model(name), "timm renamed it: find another of its kind"
    arguments = {"depth": 4} if name.startswith(("vit_", "eva")) and "18x2" not in name else {}
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        create_backbone(name, arguments)
    assert str(caught.value).startswith(name)


@pytest.mark.parametrize("name", ["deit_smal_patch16_224", "", "lvvit_x", "hf-hub:someone/something"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(
        UnsupportedModel, match=r"no model is called .* expected lvvit_s, lvvit_m or a name that timm"
    ):
        create_backbone(name)


def test_an_unknown_name_lists_similar_ones() -> None:
    with pytest.raises(UnsupportedModel, match=r"similar ones: .*deit_small_patch16_224"):
        create_backbone("deit_smal_patch16_224")


def test_the_beginning_of_a_name_lists_what_goes_on_so() -> None:
    with pytest.raises(UnsupportedModel, match=r"ones: deit_small_distilled_patch16_224, deit_small_patch16"):
        create_backbone("deit_small")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"dynamic_img_size": True}, "--model-arg dynamic_img_size=false"),
        ({"depth": 3}, "has 3 blocks, and three selections need at least 4"),
        ({"depth": 0}, "has 0 blocks"),
        (
            {"global_pool": ""},
            "pools with '', expected one of token, avg, max, avgmax, map: pass --model-arg",
        ),
        ({"in_chans": 1}, "takes images of 1 channels, expected 3"),
        ({"img_size": 8}, "would have 0 patch tokens"),
        ({"num_classes": -1}, "and -1 classes"),
        ({"embed_dim": 50}, "could not be built with"),
        ({"embed_dim": -48}, "could not be built with"),
        ({"num_heads": 0}, "could not be built with"),
        ({"img_size": [64]}, "could not be built with"),
        ({"act_layer": "none"}, "could not be built with"),
        ({"class_token": False}, "could not be built with"),
        ({"global_pool": "best"}, "could not be built with"),
        ({"no_such_argument": 1}, "could not be built with .*no_such_argument"),
        ({"pretrained": True}, "would load weights"),
    ],
)
def test_arguments(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        create_backbone("deit_tiny_patch16_224", SMALL | arguments)
    assert "deit_tiny_patch16_224" in str(caught.value)
