"""LV-ViT against a second, plain implementation of its published description, on a state dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tofe_export.errors import CheckpointError, UnsupportedModel
from tofe_export.model.backbone import create_backbone

Difference = Callable[..., float]

SMALL = {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3, "num_classes": 10}


def published_lv_vit(w: Mapping[str, Tensor], images: Tensor, depth: int, heads: int) -> Tensor:
    """Evaluation logits of LV-ViT (arXiv 2104.10858): conv stem, skip_lam 2, CLS plus auxiliary head."""

    def linear(name: str, x: Tensor) -> Tensor:
        return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)

    def convolution(i: int, x: Tensor, stride: int, padding: int) -> Tensor:
        x = functional.conv2d(x, w[f"patch_embed.conv{i}.weight"], stride=stride, padding=padding)
        mean, var, scale, shift = (
            w[f"patch_embed.bn{i}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu(functional.batch_norm(x, mean, var, scale, shift, eps=1e-5))

    x = convolution(3, convolution(2, convolution(1, images, 2, 3), 1, 1), 1, 1)
    x = functional.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], dim=1) + w["pos_embed"]
    for i in range(depth):
        y = linear(f"blocks.{i}.attn.qkv", norm(f"blocks.{i}.norm1", x))
        q, k, v = y.reshape(*y.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + linear(f"blocks.{i}.attn.proj", y) / 2.0
        y = functional.gelu(linear(f"blocks.{i}.mlp.fc1", norm(f"blocks.{i}.norm2", x)))
        x = x + linear(f"blocks.{i}.mlp.fc2", y) / 2.0
    x = norm("norm", x)
    return linear("head", x[:, 0]) + 0.5 * linear("aux_head", x[:, 1:]).max(dim=1).values


@pytest.mark.parametrize("size", [64, [48, 80]])
@pytest.mark.parametrize("name", ["lvvit_s", "lvvit_m"])
def test_equals_the_published_architecture(
    name: str, size: int | list[int], draw: Callable[..., None], difference: Difference
) -> None:
    backbone = create_backbone(name, SMALL | {"img_size": size}).eval()
    draw(backbone)
    images = torch.randn(3, 3, *backbone.image_size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = published_lv_vit(backbone.vit.state_dict(), images, depth=4, heads=3)
        assert difference(backbone.dense(images), expected) <= 1e-5
        x = backbone.embed(images)
        for block in backbone.blocks:
            x = block(x)
        assert difference(backbone.head(backbone.final_norm(x)), expected) <= 1e-5


@pytest.mark.parametrize(
    ("name", "millions", "width", "depth", "crop"),
    [("lvvit_s", 26.15, 384, 16, 0.9), ("lvvit_m", 55.83, 512, 20, 1.0)],
)
def test_full_size(name: str, millions: float, width: int, depth: int, crop: float) -> None:
    with torch.device("meta"):
        backbone = create_backbone(name)
    assert round(sum(p.numel() for p in backbone.vit.parameters()) / 1e6, 2) == millions
    assert (backbone.width, len(backbone.blocks), backbone.grid) == (width, depth, (14, 14))
    assert (backbone.preprocessing().crop, backbone.preprocessing().size) == (crop, (224, 224))


def test_state_dict_has_the_official_keys() -> None:
    found = {
        key for key in create_backbone("lvvit_s", SMALL).vit.state_dict() if not key.startswith("blocks.")
    }
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {
        "cls_token",
        "pos_embed",
        "norm.weight",
        "norm.bias",
        "patch_embed.proj.weight",
        "patch_embed.proj.bias",
    }
    expected |= {f"{head}.{part}" for head in ("head", "aux_head") for part in ("weight", "bias")}
    for i in (1, 2, 3):
        expected |= {f"patch_embed.conv{i}.weight"} | {f"patch_embed.bn{i}.{part}" for part in statistics}
    assert found == expected
    block = {
        key[9:] for key in create_backbone("lvvit_s", SMALL).vit.state_dict() if key.startswith("blocks.0.")
    }
    parts = {
        f"{layer}.{part}"
        for layer in ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
        for part in ("weight", "bias")
    }
    assert block == parts | {"attn.qkv.weight"}


def test_position_embedding_is_resampled(draw: Callable[..., None]) -> None:
    large, small = create_backbone("lvvit_s", SMALL | {"img_size": 96}), create_backbone("lvvit_s", SMALL)
    draw(large)
    state = large.vit.state_dict()
    small.load_weights(state)
    found: Any = small.vit.pos_embed
    assert found.shape == (1, 17, 48)
    assert torch.equal(found[:, 0], state["pos_embed"][:, 0])  # the CLS token's position stays as it is
    assert found.std() > 0.1
    for count in (0, 16, 18):
        with pytest.raises(
            CheckpointError, match=f"{count} positions are not those of a CLS token and a square"
        ):
            small.load_weights(state | {"pos_embed": torch.zeros(1, count, 48)})
    with pytest.raises(CheckpointError, match="the weights do not fit lvvit_s; missing: pos_embed"):
        small.load_weights({key: value for key, value in state.items() if key != "pos_embed"})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"img_size": 100}, "multiples of 16, got 100x100"),
        ({"img_size": 0}, "multiples of 16, got 0x0"),
        ({"num_classes": 0}, "num_classes >= 1"),
        ({"depth": 3}, "at least 4 blocks"),
        ({"embed_dim": 50}, "a width that its heads divide"),
        ({"drop_path": 0.1}, "drop_path"),
        ({"img_size": "large"}, "img_size"),
        ({"num_heads": -3}, "-3 heads"),
    ],
)
def test_impossible_arguments(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UnsupportedModel, match=complaint):
        create_backbone("lvvit_s", SMALL | arguments)
