"""The token solver: better counts are found where there are any, and noise does not win."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tofe_export.budget import dense_macs, gmacs, macs, printed
from tofe_export.calibration.divergence import Judge, Loss, Paired, divergence
from tofe_export.calibration.images import select
from tofe_export.calibration.stream import ImageStream
from tofe_export.calibration.targets import Target
from tofe_export.calibration.tensors import Tensors
from tofe_export.calibration.thresholds import settle_thresholds
from tofe_export.calibration.tokens import Images, Solved, solve_tokens
from tofe_export.errors import BudgetError, ImageError
from tofe_export.keep import Measured
from tofe_export.model.freezer import AdaptiveFreezer, StaticFreezer
from tofe_export.model.tofe import ToFe
from tofe_export.training.measure import measure_counts

Make = Callable[..., Any]
BUDGET = 0.00042


@pytest.fixture
def stream(tmp_path: Path, write_pictures: Make) -> Callable[[Any, int], ImageStream]:
    def make(checkpoint: Any, count: int = 32) -> ImageStream:
        folder = write_pictures(tmp_path / f"pictures{count}", count)
        return ImageStream(select(folder), checkpoint.preprocessing, batch=8).check()

    return make


def target(model: ToFe, budget: float = BUDGET, table: tuple[Measured, ...] = ()) -> Target:
    return Target.of_budget(model.cost(), budget, table)


def within(model: ToFe, keep: tuple[int, ...], budget: float = BUDGET) -> bool:
    return float(printed(gmacs(macs(model.cost(), keep)))) <= float(printed(budget))


def test_nothing_that_was_tried_exceeds_the_budget(make_checkpoint: Make, stream: Make) -> None:
    checkpoint = make_checkpoint()
    solved = solve_tokens(checkpoint.model, Images.of(stream(checkpoint)), target(checkpoint.model))
    assert len(solved.candidates) > 8
    assert all(within(checkpoint.model, candidate.keep) for candidate in solved.candidates)
    assert within(checkpoint.model, solved.keep)
    assert solved.gmacs == gmacs(macs(checkpoint.model.cost(), solved.keep))
    losses = [candidate.loss for candidate in solved.candidates]
    assert losses == sorted(losses)
    assert solved.held_out.images == 16


def test_without_a_table_the_start_is_what_the_model_keeps_here(make_checkpoint: Make, stream: Make) -> None:
    checkpoint = make_checkpoint()
    images = Images.of(stream(checkpoint))
    solved = solve_tokens(checkpoint.model, images, target(checkpoint.model))
    counts = measure_counts(checkpoint.model, Tensors(images.searched, checkpoint.model).drawn(0), BUDGET)
    assert solved.sampled == counts
    assert solved.sampled.images == 16
    assert solved.start_source == "measured on these images"
    shares = np.array(solved.start) / np.array(counts.keep_mean)
    assert shares.max() / shares.min() < 1.6  # the same proportions, in whole tokens of 16
    assert within(checkpoint.model, solved.start)


def test_with_a_table_the_start_is_what_would_be_exported(make_checkpoint: Make, stream: Make) -> None:
    checkpoint = make_checkpoint()
    row = Measured(BUDGET, (9, 5, 3), (0.1, 0.2, 0.3), "training")
    assert within(checkpoint.model, row.keep)
    images = Images.of(stream(checkpoint))
    solved = solve_tokens(checkpoint.model, images, target(checkpoint.model, BUDGET, (row,)))
    assert (solved.start, solved.start_source) == (row.keep, "training")


def only_stage_1_matters(model: ToFe) -> None:
    """Blocks behind the second selection add nothing to the stream."""
    with torch.no_grad():
        for block in list(model.backbone.blocks)[2:]:
            for name, weight in block.named_parameters():
                if "proj" in name or "fc2" in name:
                    weight.zero_()


def test_it_finds_that_only_one_stage_matters(make_checkpoint: Make, stream: Make) -> None:
    checkpoint = make_checkpoint()
    model = checkpoint.model
    only_stage_1_matters(model)
    row = Measured(BUDGET, (6, 6, 6), None, "training")
    solved = solve_tokens(model, Images.of(stream(checkpoint, 64)), target(model, BUDGET, (row,)))
    assert solved.changed
    assert solved.keep[0] > 6
    assert solved.keep == solved.candidates[0].keep
    before, after = solved.held_out.losses
    assert after.divergence < before.divergence
    assert solved.held_out.difference < -1.96 * solved.held_out.error


def test_the_start_stays_unless_the_other_half_confirms(
    make_checkpoint: Make, stream: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint()
    model = checkpoint.model
    only_stage_1_matters(model)
    worse = Paired((Loss(0.5, 1.0), Loss(0.51, 1.0)), 0.01, 0.1, 16)
    monkeypatch.setattr(Judge, "compare", lambda self, first, second: worse)
    row = Measured(BUDGET, (6, 6, 6), None, "training")
    solved = solve_tokens(model, Images.of(stream(checkpoint)), target(model, BUDGET, (row,)))
    assert solved.candidates[0].keep != row.keep
    assert (solved.keep, solved.changed) == (row.keep, False)


def test_the_adaptive_reference_is_the_adaptive_model(make_checkpoint: Make, stream: Make) -> None:
    checkpoint = make_checkpoint()
    model, images = checkpoint.model, Images.of(stream(checkpoint))
    solved = solve_tokens(model, images, target(model), against="adaptive")
    searched = Tensors(images.searched, model)
    values = settle_thresholds(model, searched, solved.start, BUDGET, lambda text: None).values
    with torch.inference_mode():
        rows = torch.cat(list(searched))
        adaptive = torch.cat([model(row, AdaptiveFreezer(values)) for row in rows.split(1)])
        direct = float(divergence(model(rows, StaticFreezer(solved.start)), adaptive, True).mean())
    measured = {candidate.keep: candidate.loss for candidate in solved.candidates}[solved.start]
    assert measured == pytest.approx(direct, rel=1e-3)
    dense = solve_tokens(model, images, target(model), against="dense")
    assert {c.keep: c.loss for c in dense.candidates}[solved.start] != measured


@pytest.mark.parametrize(
    "options", [{"reuse": False}, {"locations": (2,)}, {"arguments": {"num_classes": 0}}]
)
def test_other_models(make_checkpoint: Make, stream: Make, options: dict[str, Any]) -> None:
    checkpoint = make_checkpoint(**options)
    model = checkpoint.model
    budget = 0.7 * gmacs(dense_macs(model.cost()))
    solved = solve_tokens(model, Images.of(stream(checkpoint)), target(model, budget))
    assert len(solved.keep) == model.stages
    assert within(model, solved.keep, budget)
    if not model.structure.reuse:
        assert all(list(c.keep) == sorted(c.keep, reverse=True) for c in solved.candidates)


def test_it_is_deterministic_and_leaves_the_model_alone(make_checkpoint: Make, stream: Make) -> None:
    checkpoint = make_checkpoint()
    weights = {name: weight.clone() for name, weight in checkpoint.model.state_dict().items()}
    images = Images.of(stream(checkpoint))
    runs = [solve_tokens(checkpoint.model, images, target(checkpoint.model)) for _ in range(2)]
    assert runs[0].to_json() == runs[1].to_json()
    after: dict[str, Tensor] = checkpoint.model.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in weights.items())


def test_json_says_everything(make_checkpoint: Make, stream: Make) -> None:
    checkpoint = make_checkpoint()
    solved: Solved = solve_tokens(checkpoint.model, Images.of(stream(checkpoint)), target(checkpoint.model))
    data = solved.to_json()
    assert data["keep"] == list(solved.keep)
    assert data["start"]["divergence"] == solved.held_out.losses[0].divergence
    assert len(data["candidates"]) == len(solved.candidates)
    assert {item["origin"] for item in data["candidates"]} >= {"measured on these images", "search"}


def test_too_few_pictures(make_checkpoint: Make, stream: Make) -> None:
    with pytest.raises(ImageError, match=r"at least 16 readable pictures.*found 15"):
        Images.of(stream(make_checkpoint(), 15))


def test_a_budget_out_of_reach(make_checkpoint: Make) -> None:
    with pytest.raises(BudgetError, match="cannot be met"):
        target(make_checkpoint().model, 7.0)
