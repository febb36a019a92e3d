"""Thresholds: the mean cost of the images is the plan's, or just below, as the adaptive model really runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tofe_export.budget import gmacs, macs
from tofe_export.calibration import thresholds
from tofe_export.calibration.thresholds import Thresholds, settle_thresholds
from tofe_export.errors import InputError
from tofe_export.model.freezer import AdaptiveFreezer, StageRecord
from tofe_export.model.tofe import ToFe
from tofe_export.training.measure import calibrate_thresholds

Make = Callable[..., Any]
KEEP = (9, 6, 3)


def draw(count: int, batch: int = 8, seed: int = 1) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return list(torch.randn(count, 3, 16, 16, generator=random).split(batch))


def settle(model: ToFe, images: list[Tensor], keep: tuple[int, ...] = KEEP) -> Thresholds:
    return settle_thresholds(model, images, keep, None, lambda text: None)


@torch.inference_mode()
def adaptive_costs(model: ToFe, images: list[Tensor], values: tuple[float, ...]) -> list[int]:
    """What each image costs where the model really leaves tokens out."""
    found = []
    for image in torch.cat(images).split(1):
        records: list[StageRecord] = []
        model(image, AdaptiveFreezer(values), record=records)
        found.append(macs(model.cost(), [record.kept.shape[1] for record in records]))
    return found


@pytest.mark.parametrize("reuse", [True, False])
def test_the_adaptive_model_costs_on_average_what_the_plan_costs(make_checkpoint: Make, reuse: bool) -> None:
    model, images = make_checkpoint(reuse=reuse).model, draw(40)
    found = settle(model, images)
    costs = adaptive_costs(model, images, found.values)
    mean, plan = sum(costs) / len(costs) / 1e9, gmacs(macs(model.cost(), KEEP))
    assert len(set(costs)) > 5  # images really differ
    assert mean <= plan
    assert mean == pytest.approx(plan, rel=0.005)  # a token of one image is a fortieth of a token
    assert found.gmacs_mean == pytest.approx(mean, rel=1e-9)
    assert found.images == 40


def test_equal_mean_counts_would_cost_more(make_checkpoint: Make, make_batches: Make) -> None:
    model, images = make_checkpoint().model, draw(40)
    by_count = calibrate_thresholds(model, make_batches(images), KEEP)
    plan = gmacs(macs(model.cost(), KEEP))
    assert sum(adaptive_costs(model, images, by_count)) / 40 / 1e9 > plan
    assert settle(model, images).gmacs_mean <= plan


def test_the_next_lower_threshold_would_cost_too_much(make_checkpoint: Make) -> None:
    model, images = make_checkpoint().model, draw(12)
    plan, found = gmacs(macs(model.cost(), KEEP)), settle(model, images)
    for stage in range(3):  # keep one token more in this stage, by a threshold just below the next score
        records: list[StageRecord] = []
        with torch.inference_mode():
            for image in torch.cat(images).split(1):
                model(image, AdaptiveFreezer(found.values), record=records)
        scores = torch.cat([record.scores for record in records[stage::3]]).flatten()
        below = float(scores[scores < found.values[stage]].max())
        worse = (*found.values[:stage], below, *found.values[stage + 1 :])
        costs = adaptive_costs(model, images, worse)
        stage_price = _stage_cost(model, stage)
        if stage == 2:  # later stages do not move
            assert sum(costs) / len(costs) / 1e9 > plan - 2 * stage_price / 12
    assert found.gmacs_mean > plan - 3 * _stage_cost(model, 0) / 12


def _stage_cost(model: ToFe, stage: int) -> float:
    """What one more token in a stage costs one image, in GMACs."""
    more = [count + (place == stage) for place, count in enumerate(KEEP)]
    return gmacs(macs(model.cost(), more) - macs(model.cost(), KEEP)) * 1.5  # convex: at higher counts more


def test_a_coarse_grid_stays_within_and_comes_near(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = make_checkpoint().model, draw(40)
    exact = settle(model, images)
    monkeypatch.setattr(thresholds, "GRID", 64)
    coarse, plan = settle(model, images), gmacs(macs(model.cost(), KEEP))
    assert coarse.values != exact.values
    assert 0.95 * plan < coarse.gmacs_mean <= plan
    costs = adaptive_costs(model, images, coarse.values)
    assert coarse.gmacs_mean == pytest.approx(sum(costs) / 40 / 1e9, rel=1e-9)


def test_the_size_of_batches_changes_nothing(make_checkpoint: Make) -> None:
    model = make_checkpoint().model
    first, second = settle(model, draw(30, batch=30)), settle(model, draw(30, batch=4))
    assert first.values == pytest.approx(second.values, rel=1e-5)
    assert first.keep_mean == second.keep_mean


@pytest.mark.parametrize(("keep", "kept"), [((1, 1, 1), 1.0), ((16, 16, 16), 16.0)])
def test_the_ends_of_the_range(make_checkpoint: Make, keep: tuple[int, ...], kept: float) -> None:
    found = settle(make_checkpoint().model, draw(10), keep)
    assert found.keep_mean == (kept,) * 3
    assert all(abs(value) < 1e3 for value in found.values)  # numbers that a graph can hold


def test_a_conditioned_model_works_for_its_budget(make_checkpoint: Make) -> None:
    model, images = make_checkpoint(conditioned=True).model, draw(12)
    with torch.no_grad():
        for selector in model.selectors:
            for name, weight in selector.named_parameters():
                if "condition" in name:
                    weight.fill_(0.3)
    low = settle_thresholds(model, images, KEEP, 0.0003, lambda text: None)
    high = settle_thresholds(model, images, KEEP, 0.0006, lambda text: None)
    assert low.values != high.values


def test_images_must_be_there_and_stay_the_same(make_checkpoint: Make) -> None:
    model = make_checkpoint().model
    with pytest.raises(InputError, match="no images"):
        settle(model, [])
    with pytest.raises(ValueError, match="found an iterator"):
        settle_thresholds(model, iter(draw(4)), KEEP, None, lambda text: None)

    class Shrinking:
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            return iter(draw(8 if self.passes == 1 else 4))

    with pytest.raises(ValueError, match="the same 8 images in every pass, found 4"):
        settle_thresholds(model, Shrinking(), KEEP, None, lambda text: None)
