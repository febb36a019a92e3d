"""Plain weights where a ToFe checkpoint belongs: the message names the architecture and the command."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tofe_export.errors import CheckpointError
from tofe_export.model.backbone import create_backbone
from tofe_export.model.checkpoint import load_checkpoint
from tofe_export.model.identify import CANDIDATES, identify


def state_of(name: str, **arguments: object) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(create_backbone(name, arguments).vit.state_dict())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("deit_small_patch16_224", ["deit_small_patch16_224", "vit_small_patch16_224"]),
        ("deit3_small_patch16_224", ["deit3_small_patch16_224"]),  # once took LV-ViT down: no CLS position
        ("vit_small_patch14_reg4_dinov2", ["vit_small_patch14_reg4_dinov2"]),
        ("vit_base_patch16_siglip_224", ["vit_base_patch16_siglip_224"]),
        ("lvvit_s", ["lvvit_s"]),
    ],
)
def test_candidates(name: str, expected: list[str]) -> None:
    assert identify(state_of(name)) == expected


def test_candidates_whatever_the_head() -> None:
    both = ["deit_tiny_patch16_224", "vit_tiny_patch16_224"]
    assert identify(state_of("deit_tiny_patch16_224", num_classes=7)) == both
    assert identify(state_of("deit_tiny_patch16_224", num_classes=0)) == both
    assert identify(state_of("lvvit_m", num_classes=7)) == ["lvvit_m"]


def test_candidates_whatever_the_image_size() -> None:
    assert "deit_tiny_patch16_224" in identify(state_of("deit_tiny_patch16_224", img_size=384))


@pytest.mark.parametrize(
    "state",
    [
        {"weight": torch.zeros(2, 2)},
        {"pos_embed": torch.zeros(())},
        {"head.bias": torch.zeros(())},
        {"head.bias": torch.zeros(0), "pos_embed": torch.zeros(1, 197, 384)},
        {"pos_embed": torch.zeros(1, 197, 384), "patch_embed.proj.weight": torch.zeros(3)},
    ],
)
def test_nothing_fits(state: dict[str, Tensor]) -> None:
    assert identify(state) == []


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_can_be_built(name: str) -> None:
    with torch.device("meta"):
        assert create_backbone(name).name == name


def lines_for(path: Path) -> list[str]:
    with pytest.raises(CheckpointError, match="plain backbone weights") as caught:
        load_checkpoint(path)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_one_candidate_gives_the_whole_command(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"plain{suffix}"
    state = create_backbone("deit_tiny_distilled_patch16_224").vit.state_dict()
    if suffix == ".pth":
        torch.save({"model": state}, path)  # as the authors publish it
    else:
        save_file(state, path)
    first, train, _, init = lines_for(path)
    assert first == (
        f"{path} holds plain backbone weights (its keys and shapes fit deit_tiny_distilled_patch16_224), "
        "not a ToFe checkpoint: it has no selectors. Train them with"
    )
    assert train.strip() == (
        f"tofe-export train --model deit_tiny_distilled_patch16_224 --backbone {path} --data DIR "
        "--budget 2.0 --out tofe.pt"
    )
    assert init.strip() == (
        f"tofe-export init --model deit_tiny_distilled_patch16_224 --backbone {path} --out tofe.pt"
    )


def test_several_candidates_are_listed_and_none_is_chosen(tmp_path: Path) -> None:
    path = tmp_path / "plain.pth"
    torch.save(create_backbone("deit_tiny_patch16_224").vit.state_dict(), path)
    first, train, *_ = lines_for(path)
    assert "fit deit_tiny_patch16_224, vit_tiny_patch16_224)" in first
    assert "tofe-export train --model NAME --backbone" in train


def test_no_candidate(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "plain.pth")
    first, train, *_ = lines_for(tmp_path / "plain.pth")
    assert first.startswith(f"{tmp_path / 'plain.pth'} holds plain backbone weights, not a ToFe checkpoint")
    assert "--model NAME" in train
