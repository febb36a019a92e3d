"""Architectures that ToFe cannot be put into are refused by name, with the reason and, if there is one, a way."""

from __future__ import annotations

from typing import Any

import pytest
import timm

from tofe_export.errors import UnsupportedModel
from tofe_export.model.backbone import create_backbone

SMALL = {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3, "num_classes": 10}


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("swin_tiny_patch4_window7_224", {}, "attends inside windows or pyramids of a fixed grid"),
        ("vit_small_patch16_dinov3", {"depth": 4}, "rotary position embeddings, which enter in every block"),
        ("eva02_tiny_patch14_224", {"depth": 4}, "rotary position embeddings, which enter in every block"),
        ("vit_small_patch16_rope_224", {"depth": 4}, "rotary position embeddings, which enter in every block"),
        ("vit_small_patch16_18x2_224", {"depth": 4}, "ParallelThingsBlock blocks .* parallel blocks are not"),
        ("vit_base_patch16_plus_clip_240", {"depth": 4}, None),
        ("vit_base_patch16_xp_224", {"depth": 4}, "ParallelScalingBlock blocks .* parallel blocks are not"),
        ("vit_srelpos_small_patch16_224", {"depth": 4}, "needs a plain VisionTransformer"),
        ("resnet18", {}, "resnet18 is a ResNet: ToFe needs a plain VisionTransformer"),
    ],
)
def test_architectures(name: str, arguments: dict[str, Any], reason: str | None) -> None:
    assert timm.is_model(name), "timm renamed it: find another of its kind"
    if reason is None:
        return
    with pytest.raises(UnsupportedModel, match=reason) as caught:
        create_backbone(name, arguments)
    assert name in str(caught.value)
