"""From backbone weights to a checkpoint: official layouts, resampling, classes, wrong files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tofe_export.errors import CheckpointError, UsageError
from tofe_export.model.backbone import Backbone, create_backbone
from tofe_export.model.build import build_checkpoint
from tofe_export.model.checkpoint import load_checkpoint
from tofe_export.model.tofe import ToFe

SMALL = {"depth": 4, "embed_dim": 48, "num_heads": 3}
DEIT = "deit_tiny_patch16_224"
MakeModel = Callable[..., ToFe]


@pytest.fixture
def make_backbone(draw: Callable[..., None]) -> Callable[..., Backbone]:
    def make(name: str = DEIT, **arguments: Any) -> Backbone:
        backbone = create_backbone(name, SMALL | {"img_size": 64} | arguments)
        draw(backbone)
        return backbone.requires_grad_(False).eval()

    return make


def build(name: str, path: Path | None, size: tuple[int, int] = (64, 64), **options: Any) -> ToFe:
    return build_checkpoint(
        name, path, locations=(1, 2, 3), image_size=size, arguments=dict(SMALL), **options
    ).model


def same_weights(model: ToFe, state: Mapping[str, Tensor]) -> bool:
    found = model.backbone.vit.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def test_official_deit_layout(make_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    state = make_backbone(num_classes=7).vit.state_dict()
    torch.save({"model": state}, tmp_path / "deit.pth")
    checkpoint = build_checkpoint(
        DEIT, tmp_path / "deit.pth", locations=(1, 2, 3), image_size=(64, 64), arguments=dict(SMALL), seed=5
    )
    assert same_weights(checkpoint.model, state)
    assert checkpoint.model.backbone.num_classes == 7  # read from the head
    assert (checkpoint.trained, checkpoint.table, checkpoint.classes) == (False, (), None)
    assert checkpoint.preprocessing.crop == 0.875
    assert checkpoint.history == {"made by": "tofe-export init", "backbone file": "deit.pth", "seed": 5}


def test_who_made_it_and_for_several_budgets() -> None:
    checkpoint = build_checkpoint(
        DEIT, None, arguments=dict(SMALL), image_size=(64, 64), conditioned=True, made_by="tofe-export train"
    )
    assert checkpoint.model.structure.conditioned
    assert checkpoint.history["made by"] == "tofe-export train"
    assert not build(DEIT, None).structure.conditioned


def test_official_lv_vit_layout(make_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    state = make_backbone("lvvit_s", num_classes=7).vit.state_dict()
    torch.save(state, tmp_path / "lvvit.pth.tar")
    assert same_weights(build("lvvit_s", tmp_path / "lvvit.pth.tar"), state)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "parallel.pth"
    )
    assert same_weights(build("lvvit_s", tmp_path / "parallel.pth"), state)


def test_deit_iii_layer_scale_names(make_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    state = make_backbone("deit3_small_patch16_224", num_classes=7).vit.state_dict()
    published = {
        key.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v for key, v in state.items()
    }
    assert published.keys() != state.keys()
    torch.save({"model": published}, tmp_path / "deit3.pth")
    assert same_weights(build("deit3_small_patch16_224", tmp_path / "deit3.pth"), state)


def test_dinov2_with_registers_as_published(make_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    state = dict(make_backbone(name, img_size=56).vit.state_dict())
    published = {key.replace("reg_token", "register_tokens"): value for key, value in state.items()}
    position = torch.randn(1, 1, 48)  # theirs is added to the class token already in timm's layout
    published["cls_token"] = state["cls_token"] - position
    published["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    published["mask_token"] = torch.zeros(1, 48)
    torch.save(published, tmp_path / "dinov2.pth")
    model = build(name, tmp_path / "dinov2.pth", (56, 56))
    torch.testing.assert_close(dict(model.backbone.vit.state_dict()), state)
    assert model.backbone.output == "features"


def test_positions_and_patches_are_resampled(make_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    state = make_backbone(img_size=96, patch_size=32, num_classes=7).vit.state_dict()
    torch.save(state, tmp_path / "x.pth")
    found = build(DEIT, tmp_path / "x.pth", (64, 96)).backbone.vit.state_dict()
    assert found["pos_embed"].shape == (1, 1 + 4 * 6, 48)
    assert torch.equal(found["pos_embed"][:, 0], state["pos_embed"][:, 0])
    assert found["pos_embed"][:, 1:].std() > 0.1
    assert found["patch_embed.proj.weight"].shape == (48, 3, 16, 16)
    assert torch.equal(found["blocks.3.mlp.fc2.weight"], state["blocks.3.mlp.fc2.weight"])


def test_half_precision_weights_are_read_as_float32(
    make_backbone: Callable[..., Backbone], tmp_path: Path
) -> None:
    state = {key: value.half() for key, value in make_backbone(num_classes=7).vit.state_dict().items()}
    torch.save(state, tmp_path / "x.pth")
    found = build(DEIT, tmp_path / "x.pth").backbone.vit.state_dict()
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert all(torch.equal(found[key], state[key].float()) for key in state)


@pytest.mark.parametrize(
    ("name", "arguments", "complaint"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "timm could not adapt them"),
        ("deit3_small_patch16_224", {}, "missing: blocks.0.ls1.gamma"),
        ("lvvit_s", {}, "do not fit lvvit_s"),
        (DEIT, {"depth": 5}, "missing: blocks.4.attn.proj.bias"),
        (DEIT, {"embed_dim": 96}, r"is \(192, 48\), expected \(384, 96\)"),
        (DEIT, {"depth": 4, "num_classes": 8}, r"head.bias is \(7,\), expected \(8,\)"),
    ],
)
def test_weights_of_another_architecture(
    name: str,
    arguments: dict[str, Any],
    complaint: str,
    make_backbone: Callable[..., Backbone],
    tmp_path: Path,
) -> None:
    torch.save(make_backbone(num_classes=7).vit.state_dict(), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=complaint) as caught:
        build_checkpoint(name, tmp_path / "x.pth", image_size=(64, 64), arguments=SMALL | arguments)
    assert "Check --model" in str(caught.value)


def test_weights_that_are_not_finite(make_backbone: Callable[..., Backbone], tmp_path: Path) -> None:
    state = make_backbone(num_classes=7).vit.state_dict()
    state["blocks.2.norm1.weight"][3] = float("nan")
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(
        CheckpointError, match=r"NaN or infinite values in 1 of .* first in blocks\.2\.norm1\.weight"
    ):
        build(DEIT, tmp_path / "x.pth")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_tofe_checkpoint_is_no_backbone(suffix: str, tmp_path: Path) -> None:
    arguments = SMALL | {"img_size": 64}
    build_checkpoint(DEIT, None, locations=(1, 2, 3), arguments=arguments).save(tmp_path / f"a{suffix}")
    with pytest.raises(
        CheckpointError, match="is a ToFe checkpoint already: give it to `tofe-export onnx --ckpt`"
    ):
        build(DEIT, tmp_path / f"a{suffix}")


def test_class_names(tmp_path: Path) -> None:
    arguments = SMALL | {"img_size": 64}
    imagenet = build_checkpoint(DEIT, None, arguments=arguments).classes
    assert imagenet is not None
    assert (len(imagenet), imagenet[0]) == (1000, "n01440764 tench, Tinca tinca")
    named = build_checkpoint(DEIT, None, arguments=arguments, num_classes=2, classes=("cat", "dog"))
    named.save(tmp_path / "a.pt")
    assert load_checkpoint(tmp_path / "a.pt").classes == ("cat", "dog")
    with pytest.raises(UsageError, match="expected 3 class names, one per output, found 2"):
        build_checkpoint(DEIT, None, arguments=arguments, num_classes=3, classes=("cat", "dog"))


def test_preparation_overrides_the_backbones_own() -> None:
    preparation = {"crop": 1.0, "mean": None, "interpolation": "bilinear"}
    found = build_checkpoint(DEIT, None, image_size=(48, 80), arguments=dict(SMALL), preparation=preparation)
    assert (found.preprocessing.size, found.preprocessing.crop) == ((48, 80), 1.0)
    assert found.preprocessing.interpolation == "bilinear"
    assert found.preprocessing.mean == (0.485, 0.456, 0.406)
