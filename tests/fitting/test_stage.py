"""What a stage is fitted on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tofe_export.fitting.original import Original
from tofe_export.fitting.stage import collect, frozen_rows, images_within
from tofe_export.model.freezer import StageRecord, StaticFreezer
from tofe_export.model.tofe import ToFe

Make = Callable[..., ToFe]
Images = Callable[..., list[Tensor]]
KEEP = (6, 4, 3)


def test_entries_are_the_reduced_models_and_later_tokens_the_dense_ones(
    make_model: Make, make_images: Images
) -> None:
    model = make_model()
    images, original = make_images(model), Original(model.backbone)
    data = collect(model, original, images, KEEP, 1, 20)
    assert data.entry.shape == (20, 16, 24)
    assert data.later is not None
    dense = original.tokens(torch.cat(images)[:20], (2, 3))
    assert data.later.allclose(dense[1][:, 1:], atol=1e-5)
    assert not data.entry.allclose(dense[0][:, 1:], atol=1e-2)  # stage 1 froze some
    assert collect(model, original, images, KEEP, 2, 20).later is None
    assert not model.selectors[1]._forward_pre_hooks


def test_frozen_rows_are_those_that_the_model_freezes(make_model: Make, make_images: Images) -> None:
    model = make_model()
    images = make_images(model)
    data = collect(model, Original(model.backbone), images, KEEP, 0, 64)
    rows, later = frozen_rows(model, data, KEEP[0], 0)
    assert rows.shape == later.shape == (64 * 10, 24)
    records: list[StageRecord] = []
    model(torch.cat(images), StaticFreezer(KEEP), record=records)
    kept = records[0].spatial(16)[1]
    assert rows.equal(data.entry[~kept])
    with pytest.raises(ValueError, match="recovers nothing"):
        frozen_rows(model, data._replace(later=None), 3, 2)


def test_memory_is_bounded_by_tokens(make_model: Make) -> None:
    model = make_model()
    assert images_within(model, 1000) == 62
    assert images_within(model, 3) == 1


def test_without_reuse_nothing_comes_back(make_model: Make, make_images: Images) -> None:
    model = make_model(reuse=False)
    data = collect(model, Original(model.backbone), make_images(model), KEEP, 1, 16)
    assert data.later is None
    assert data.entry.shape == (16, 6, 24)
