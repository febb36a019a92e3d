"""Tuning backbone and approximators through the gathered forward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tofe_export.calibration.divergence import Judge
from tofe_export.errors import InputError, TrainingDiverged
from tofe_export.fitting.original import Original
from tofe_export.fitting.tune import mix, tune, tuned
from tofe_export.model.tofe import ToFe

Make = Callable[..., ToFe]
Images = Callable[..., list[Tensor]]
KEEP = (6, 4, 3)


def silent(text: str) -> None:
    """Say nothing."""


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("backbone", [True, False])
def test_answers_come_nearer_and_only_what_may_change_does(
    backbone: bool, make_model: Make, make_images: Images
) -> None:
    model = make_model()
    original, images = Original(model.backbone), make_images(model, 128)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with Judge(model, make_images(model, 64, seed=1), original.answer) as judge:
        first = judge.judge([KEEP])[0].divergence
        tune(model, original, images, KEEP, 60, seeded(), silent, backbone)
        assert judge.judge([KEEP])[0].divergence < first
    changed = {
        name.split(".")[0] for name, weight in model.state_dict().items() if not weight.equal(before[name])
    }
    assert changed == ({"approximators", "backbone"} if backbone else {"approximators"})
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(
        weight.equal(before[f"backbone.{name}"]) for name, weight in original.backbone.state_dict().items()
    )


def test_nothing_to_tune_changes_nothing(make_model: Make, make_images: Images) -> None:
    model = make_model(approximator="identity")
    assert not tuned(model, backbone=False)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    tune(model, Original(model.backbone), make_images(model), KEEP, 3, seeded(), silent, backbone=False)
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())


def test_some_images_are_mixed_with_others_of_their_batch() -> None:
    batch = torch.eye(64).reshape(64, 1, 8, 8)
    mixed = mix(batch, seeded()).flatten(1)
    assert mixed.sum(dim=1).allclose(torch.ones(64))  # proportions
    own = mixed.diagonal()
    assert 16 < int((own == 1).sum()) < 48  # about half are as they were
    assert int(((mixed > 0).sum(dim=1) == 2).sum()) == int((own < 1).sum())
    assert mix(batch[:1], seeded()).equal(batch[:1])  # nobody to mix with


def test_a_loss_that_is_no_number_ends_it(make_model: Make, make_images: Images) -> None:
    model = make_model()
    images = [batch * float("nan") for batch in make_images(model)]
    with pytest.raises(TrainingDiverged, match="--steps 0"):
        tune(model, Original(model.backbone), images, KEEP, 2, seeded(), silent)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_no_images(make_model: Make) -> None:
    model = make_model()
    with pytest.raises(InputError, match="no images"):
        tune(model, Original(model.backbone), [], KEEP, 2, seeded(), silent)
