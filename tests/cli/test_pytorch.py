"""A checkpoint as a session: it answers what the model answers, and only for the bundle made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tofe_export.budget import dense_macs, gmacs
from tofe_export.bundle import Bundle
from tofe_export.cli.pytorch import open_checkpoint
from tofe_export.errors import UsageError
from tofe_export.files import sha256_file
from tofe_export.manifest import Manifest, Variant
from tofe_export.model.backbone import create_backbone
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.freezer import AdaptiveFreezer, StaticFreezer
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.preprocess import Preprocessing

MakeBundle = Callable[..., Path]

PREPROCESSING = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ARGUMENTS = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 3}


@pytest.fixture
def model() -> ToFe:
    torch.manual_seed(0)
    backbone = create_backbone("vit_tiny_patch16_224", ARGUMENTS)
    return ToFe(backbone, Structure(locations=(1, 2))).eval()


@pytest.fixture
def checkpoint(model: ToFe, tmp_path: Path) -> Path:
    path = tmp_path / "tofe.pt"
    Checkpoint(model, PREPROCESSING).save(path)
    return path


@pytest.fixture
def manifest(checkpoint: Path, make_bundle: MakeBundle) -> Manifest:
    """The tiny bundle's, as if it had been made from this checkpoint."""
    found = Bundle.open(make_bundle()).manifest
    made_from = replace(found.model, checkpoint_sha256=sha256_file(checkpoint))
    return replace(found, model=made_from, preprocessing=PREPROCESSING)


def variant(manifest: Manifest, **changes: object) -> Variant:
    return replace(manifest.variants[1], **changes)  # type: ignore[arg-type]  # any of its fields


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_static_variants(checkpoint: Path, manifest: Manifest, model: ToFe) -> None:
    with open_checkpoint(checkpoint, manifest)(variant(manifest, keep=(8, 4))) as session:
        found = session.infer({"images": images(2).numpy()})["logits"]
    with torch.inference_mode():
        expected = model(images(2), StaticFreezer((8, 4))).numpy()
    np.testing.assert_array_equal(found, expected)


def test_the_dense_variant_is_the_backbone_alone(checkpoint: Path, manifest: Manifest, model: ToFe) -> None:
    with open_checkpoint(checkpoint, manifest)(manifest.variants[0]) as session:
        found = session.infer({"images": images(2).numpy()})["logits"]
    with torch.inference_mode():
        np.testing.assert_array_equal(found, model.backbone.dense(images(2)).numpy())


def test_adaptive_variants_take_one_image_at_a_time(
    checkpoint: Path, manifest: Manifest, model: ToFe
) -> None:
    adaptive = variant(manifest, lowering="adaptive", thresholds=(0.0, 0.0))
    with open_checkpoint(checkpoint, manifest)(adaptive) as session:
        assert session.inputs["images"].shape == (1, 3, 32, 32)
        found = session.infer({"images": images(1).numpy()})["logits"]
    with torch.inference_mode():
        np.testing.assert_array_equal(found, model(images(1), AdaptiveFreezer((0.0, 0.0))).numpy())


def test_a_conditioned_model_answers_for_the_variant_s_budget(
    tmp_path: Path, make_bundle: MakeBundle
) -> None:
    torch.manual_seed(0)
    structure = Structure(locations=(1, 2), conditioned=True)
    model = ToFe(create_backbone("vit_tiny_patch16_224", ARGUMENTS), structure).eval()
    with torch.no_grad():
        for selector in model.selectors:  # so that the budget decides which tokens are kept
            for parameter in selector.parameters():
                parameter.normal_()
    path = tmp_path / "conditioned.pt"
    Checkpoint(model, PREPROCESSING).save(path)
    found = Bundle.open(make_bundle()).manifest
    made_from = replace(found.model, checkpoint_sha256=sha256_file(path))
    manifest = replace(found, model=made_from, preprocessing=PREPROCESSING)
    open_variant, dense = open_checkpoint(path, manifest), gmacs(dense_macs(model.cost()))
    sessions = {
        budget: open_variant(variant(manifest, keep=(8, 4), budget_gmacs=budget))
        for budget in (dense / 10, dense)  # both open at once, on the same model
    }
    answers = {}
    for budget, session in sessions.items():
        answers[budget] = session.infer({"images": images(2).numpy()})["logits"]
        model.set_budget(budget)
        with torch.inference_mode():
            expected = model(images(2), StaticFreezer((8, 4))).numpy()
        np.testing.assert_array_equal(answers[budget], expected)
    assert np.abs(answers[dense] - answers[dense / 10]).max() > 1e-3


def test_another_checkpoint_is_refused(checkpoint: Path, manifest: Manifest) -> None:
    other = replace(manifest, model=replace(manifest.model, checkpoint_sha256="1" * 64))
    with pytest.raises(UsageError, match=r"sha256 111111111111\.\.\."):
        open_checkpoint(checkpoint, other)
