"""PyTorch's answers: shapes, spatial order, batching that changes nothing, progress."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tofe_export.model.freezer import StageRecord, StaticFreezer
from tofe_export.model.references import (
    Answers,
    adaptive_answers,
    dense_answers,
    rounding,
    starts,
    static_answers,
)
from tofe_export.model.tofe import ToFe

MakeModel = Callable[..., ToFe]
MakeImages = Callable[..., Tensor]
Difference = Callable[..., float]
KEEP, COUNT = (9, 6, 3), 11


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
def test_static(reuse: bool, make_model: MakeModel, make_images: MakeImages, difference: Difference) -> None:
    model, done = make_model(reuse=reuse), list[int]()
    images = make_images(model, COUNT)
    answers = static_answers(model, images.numpy(), KEEP, "head", done.append)
    assert done == [8, 3]
    assert answers.scores is not None
    assert answers.kept is not None
    assert (answers.output.shape, answers.scores.shape, answers.kept.shape) == (
        (11, 10),
        (11, 3, 16),
        (11, 3, 16),
    )
    assert answers.kept.sum(axis=2).tolist() == [list(KEEP)] * COUNT
    for stage in range(3):
        scored = np.ones_like(answers.kept[:, 0]) if reuse or not stage else answers.kept[:, stage - 1]
        assert np.array_equal(~np.isnan(answers.scores[:, stage]), scored)
        best = np.sort(np.nan_to_num(answers.scores[:, stage], nan=-np.inf), axis=1)[:, ::-1][
            :, : KEEP[stage]
        ]
        own = np.where(answers.kept[:, stage], answers.scores[:, stage], -np.inf)
        assert np.array_equal(np.sort(own, axis=1)[:, ::-1][:, : KEEP[stage]], best)
    records: list[StageRecord] = []
    alone = model(images[10:], StaticFreezer(KEEP), record=records)
    assert difference(torch.from_numpy(answers.output[10:]), alone) <= 1e-5
    for stage, record in enumerate(records):
        assert np.array_equal(record.spatial(16)[1][0].numpy(), answers.kept[10, stage])


def test_what_budgets_share_is_computed_once(make_model: MakeModel, make_images: MakeImages) -> None:
    model = make_model()
    images = make_images(model, COUNT).numpy()
    begun = starts(model, images)
    assert [len(tokens) for tokens in begun] == [8, 3]
    for keep in (KEEP, (4, 2, 1)):
        shared = static_answers(model, images, keep, "head", lambda _: None, begun)
        own = static_answers(model, images, keep, "head", lambda _: None)
        for ours, theirs in zip(shared, own, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="zip"):
        static_answers(model, images[:8], KEEP, "head", lambda _: None, begun)


@pytest.mark.parametrize("output", ["head", "tokens"])
def test_dense(output: str, make_model: MakeModel, make_images: MakeImages, difference: Difference) -> None:
    model = make_model()
    images = make_images(model, 3)
    answers = dense_answers(model, images.numpy(), output, lambda _: None)
    assert (answers.scores, answers.kept) == (None, None)
    expected = model(images, StaticFreezer((16, 16, 16)), output)
    assert difference(torch.from_numpy(answers.output), expected) <= 1e-5


def test_adaptive(make_model: MakeModel, make_images: MakeImages) -> None:
    model, done = make_model(), list[int]()
    images = make_images(model, 4).numpy()
    answers = adaptive_answers(model, images, (0.0, 0.0, np.inf), "tokens", done.append)
    assert done == [1, 1, 1, 1]
    assert answers.output.shape == (4, 16, 48)
    assert answers.scores is not None
    assert answers.kept is not None
    for stage in (0, 1):
        some = answers.scores[:, stage].max(axis=1) >= 0
        assert np.array_equal(answers.kept[some, stage], answers.scores[some, stage] >= 0)
    assert np.array_equal(answers.kept[:, 2].argmax(axis=1), answers.scores[:, 2].argmax(axis=1))
    assert answers.kept[:, 2].sum(axis=1).tolist() == [1, 1, 1, 1]


def _answers(output: list[list[float]], kept: list[list[list[bool]]] | None = None) -> Answers:
    return Answers(np.array(output), None, None if kept is None else np.array(kept))


def test_rounding_is_the_worst_image_in_units_of_its_range() -> None:
    exact = _answers([[0.0, 10.0], [0.0, 1.0]])
    assert rounding(_answers([[0.0, 10.1], [0.002, 1.0]]), exact) == pytest.approx(0.01)
    assert rounding(exact, exact) == 0.0


def test_rounding_leaves_out_images_whose_sets_differ() -> None:
    exact = _answers([[0.0, 10.0], [0.0, 1.0]], [[[True, False]], [[True, False]]])
    ours = _answers([[0.0, 10.1], [0.5, 1.0]], [[[True, False]], [[False, True]]])
    assert rounding(ours, exact) == pytest.approx(0.01)


def test_float64_differs_by_rounding_alone(make_model: MakeModel, make_images: MakeImages) -> None:
    model = copy.deepcopy(make_model())
    images = make_images(model, 4).numpy()
    ours = static_answers(model, images, KEEP, "head", lambda done: None)
    exact = static_answers(model.double(), images.astype(np.float64), KEEP, "head", lambda done: None)
    assert exact.output.dtype == np.float64
    assert 0.0 < rounding(ours, exact) < 1e-5
