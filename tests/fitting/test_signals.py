"""What a token is worth, seen from the dense model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tofe_export.calibration.divergence import divergence
from tofe_export.fitting.original import Original, at_most
from tofe_export.fitting.signals import measure, sensitivity, update
from tofe_export.model.masked import given, masked_forward
from tofe_export.model.tofe import ToFe

Make = Callable[..., ToFe]
Images = Callable[..., list[Tensor]]


def test_sensitivity_is_the_second_order_term_of_the_divergence(
    make_model: Make, make_images: Images
) -> None:
    """KL(dense || a little less of one token) = step^2 / 2 * sensitivity, up to third order."""
    model = make_model().double()
    images = make_images(model, 3)[0].double()
    found = sensitivity(model, images, torch.Generator().manual_seed(0), draws=400)
    dense, step = model.backbone.dense(images), 1e-3
    for stage, token in ((0, 3), (1, 11), (2, 6)):
        masks = torch.ones(model.stages, len(images), model.backbone.tokens, dtype=torch.float64)
        masks[stage, :, token] -= step
        changed = masked_forward(model, images, given(masks.unbind())).output
        expected = divergence(changed, dense, True) * 2 / step**2
        assert found[:, stage, token].allclose(expected, rtol=0.35)


def test_update_is_the_distance_that_a_stage_moves_a_token(make_model: Make, make_images: Images) -> None:
    model = make_model()
    images, original = make_images(model)[0], Original(model.backbone)
    found = update(model, original, images)
    before, after = original.tokens(images, (2, 3))
    assert found.shape == (16, 3, 16)
    assert found[:, 1].equal((after - before)[:, 1:].norm(dim=-1))


@pytest.mark.parametrize("kind", ["lv_vit", "headless", "average pooling"])
def test_every_kind_of_model_has_signals(kind: str, make_model: Make, make_images: Images) -> None:
    model = make_model(kind)
    images, original = make_images(model)[0], Original(model.backbone)
    for name in ("sensitivity", "update"):
        found = measure(name, model, original, images, torch.Generator().manual_seed(0))
        assert found.shape == (16, 3, model.backbone.tokens)
        assert float(found.std()) > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_original_answers_as_before_whatever_becomes_of_the_model(
    make_model: Make, make_images: Images
) -> None:
    model = make_model()
    images, original = make_images(model)[0], Original(model.backbone)
    dense = model.backbone.dense(images)
    with torch.no_grad():
        for weight in model.backbone.blocks[0].parameters():
            weight.zero_()
    assert original.answer(images).equal(dense)
    assert not model.backbone.dense(images).allclose(dense)
    first, last = original.tokens(images, (0, 4))
    assert first.equal(original.backbone.embed(images))
    assert original.backbone.head(original.backbone.final_norm(last)).allclose(dense, atol=1e-5)


def test_the_first_images(make_model: Make, make_images: Images) -> None:
    images = make_images(make_model())  # 4 batches of 16
    assert torch.cat(list(at_most(images, 20))).equal(torch.cat(images)[:20])
    assert sum(map(len, at_most(images, 1000))) == 64
    from tofe_export.errors import InputError

    with pytest.raises(InputError, match="no images to fit on"):
        list(at_most([], 5))
