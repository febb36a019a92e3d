"""Tuning selectors and approximators through the masks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tofe_export.calibration.divergence import Judge
from tofe_export.errors import InputError, TrainingDiverged
from tofe_export.fitting.distil import distil, nearly_best
from tofe_export.fitting.original import Original
from tofe_export.model.tofe import ToFe

Make = Callable[..., ToFe]
Images = Callable[..., list[Tensor]]
KEEP = (6, 4, 3)


def silent(text: str) -> None:
    """Say nothing."""


def test_exactly_the_counts_are_kept_and_the_gradient_reaches_the_scores() -> None:
    scores = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = nearly_best((6,), torch.Generator().manual_seed(1))(scores, 0)
    assert mask.detach().sum(dim=1).tolist() == [6.0] * 5
    assert set(mask.detach().unique().tolist()) == {0.0, 1.0}
    mask[:, 0].sum().backward()
    assert scores.grad is not None
    assert float(scores.grad.abs().sum()) > 0


def test_all_tokens_may_be_kept_and_gone_ones_never_come_back() -> None:
    scores = torch.randn(2, 8)
    assert nearly_best((8,), torch.Generator())(scores, 0).equal(torch.ones(2, 8))
    scores[:, :4] = -torch.inf
    mask = nearly_best((4,), torch.Generator())(scores, 0)
    assert mask[:, 4:].equal(torch.ones(2, 4))
    assert bool(mask.isfinite().all())


def test_answers_come_nearer_to_the_dense_ones_and_the_backbone_stays(
    make_model: Make, make_images: Images
) -> None:
    model = make_model()
    original, images = Original(model.backbone), make_images(model, 128)
    backbone = {name: weight.clone() for name, weight in model.backbone.state_dict().items()}
    with Judge(model, make_images(model, 64, seed=1), original.answer) as judge:
        before = judge.judge([KEEP])[0].divergence
        distil(model, original, images, KEEP, 60, torch.Generator().manual_seed(0), silent)
        assert judge.judge([KEEP])[0].divergence < before
    assert all(weight.equal(backbone[name]) for name, weight in model.backbone.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_loss_that_is_no_number_ends_it(make_model: Make, make_images: Images) -> None:
    model = make_model()
    images = [batch * float("nan") for batch in make_images(model)]
    with pytest.raises(TrainingDiverged, match="--steps 0"):
        distil(model, Original(model.backbone), images, KEEP, 2, torch.Generator(), silent)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_no_images(make_model: Make) -> None:
    model = make_model()
    with pytest.raises(InputError, match="no images"):
        distil(model, Original(model.backbone), [], KEEP, 2, torch.Generator(), silent)
