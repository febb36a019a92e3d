"""How answers are compared: the divergence itself, and the judge that measures keep counts by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tofe_export.calibration.divergence import Judge, Loss, Paired, divergence
from tofe_export.errors import InputError
from tofe_export.model.freezer import StaticFreezer

Make = Callable[..., Any]


def draw(count: int, batch: int = 5, seed: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, 3, 16, 16, generator=random).split(batch))


def test_divergence_is_that_of_kullback_and_leibler() -> None:
    ours, reference = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert divergence(ours, reference, True).item() == pytest.approx(expected, rel=1e-6)
    assert divergence(reference + 7, reference, True).item() == pytest.approx(0, abs=1e-6)
    sure = torch.tensor([[200.0, 0.0]])
    assert divergence(sure.flip(1), sure, True).item() == pytest.approx(200)


def test_features_are_compared_relative_to_their_size() -> None:
    reference = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    off = reference * 1.1
    assert divergence(off, reference, False).tolist() == pytest.approx([0.01, 0.01])


def test_the_judge_measures_what_the_model_with_these_counts_answers(make_checkpoint: Make) -> None:
    model, images = make_checkpoint().model.eval(), draw(12)
    plans = [(16, 16, 16), (8, 4, 2), (2, 2, 2)]
    with Judge(model, images, model.backbone.dense) as judge:
        losses = judge.judge(plans)
        again = judge.judge(plans[1:])
    everything = torch.cat(images)
    with torch.inference_mode():
        dense = model.backbone.dense(everything)
        for keep, loss in zip(plans, losses, strict=True):
            answer = model(everything, StaticFreezer(keep))
            assert loss.divergence == pytest.approx(float(divergence(answer, dense, True).mean()), abs=1e-6)
            assert loss.agreement == float((answer.argmax(1) == dense.argmax(1)).double().mean())
    assert losses[0].divergence == pytest.approx(0, abs=1e-6)  # nothing frozen
    assert losses[1].divergence > 1e-4
    assert again == losses[1:]


def test_the_reference_answers_once(make_checkpoint: Make) -> None:
    model, asked = make_checkpoint().model.eval(), []

    def refer(images: Tensor) -> Tensor:
        asked.append(len(images))
        dense: Tensor = model.backbone.dense(images)
        return dense

    with Judge(model, draw(12), refer) as judge:
        for _ in range(3):
            judge.judge([(8, 4, 2)])
    assert asked == [5, 5, 2]


def test_comparing_two_on_the_same_images(make_checkpoint: Make) -> None:
    model, images = make_checkpoint().model.eval(), draw(20)
    with Judge(model, images, model.backbone.dense) as judge:
        losses = judge.judge([(3, 3, 3), (14, 12, 10)])
        paired = judge.compare((3, 3, 3), (14, 12, 10))
    assert paired.losses == tuple(losses)
    assert paired.difference == pytest.approx(losses[1].divergence - losses[0].divergence)
    with torch.inference_mode():
        everything, dense = torch.cat(images), model.backbone.dense(torch.cat(images))
        each = [
            divergence(model(everything, StaticFreezer(keep)), dense, True)
            for keep in ((3, 3, 3), (14, 12, 10))
        ]
    assert paired.error == pytest.approx(float((each[1] - each[0]).double().std() / 20**0.5), rel=1e-4)
    assert paired.images == 20


@pytest.mark.parametrize(
    ("difference", "error", "better"),
    [(-0.2, 0.1, True), (-0.01, 0.1, True), (0.5, 0.1, False), (0.0, 0.0, False)],
)
def test_better_is_what_diverges_less_on_images_that_no_search_saw(
    difference: float, error: float, better: bool
) -> None:
    paired = Paired((Loss(0.5, 1.0), Loss(0.5 + difference, 1.0)), difference, error, 100)
    assert paired.second_is_better is better


def test_a_headless_model_is_judged_by_its_features(make_checkpoint: Make) -> None:
    model = make_checkpoint(arguments={"num_classes": 0}).model.eval()
    with Judge(model, draw(6), model.backbone.dense) as judge:
        (loss,) = judge.judge([(8, 4, 2)])
    assert loss.divergence > 0
    assert math.isnan(loss.agreement)


def test_answers_that_are_not_finite(make_checkpoint: Make) -> None:
    model = make_checkpoint().model.eval()
    nans = lambda images: torch.full((len(images), 5), torch.nan)  # noqa: E731 - an argument
    with Judge(model, draw(4), nans) as judge, pytest.raises(InputError, match="not finite"):
        judge.judge([(8, 4, 2)])
    with Judge(model, [], model.backbone.dense) as judge, pytest.raises(InputError, match="no images"):
        judge.judge([(8, 4, 2)])


def test_a_candidate_that_is_not_finite_loses_infinitely(make_checkpoint: Make) -> None:
    model, images = make_checkpoint().model.eval(), draw(4)
    dense = torch.cat([model.backbone.dense(batch).detach() for batch in images])
    with torch.no_grad():
        for weight in model.approximators.parameters():
            weight.fill_(torch.nan)
    with Judge(model, [torch.cat(images)], lambda batch: dense) as judge:
        (loss,) = judge.judge([(8, 4, 2)])
    assert loss.divergence == math.inf
