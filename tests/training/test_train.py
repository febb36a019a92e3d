"""The whole use case on images in memory: from a backbone to a checkpoint that knows its budgets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tofe_export.budget import gmacs, macs
from tofe_export.errors import BudgetError, InputError, UsageError
from tofe_export.model.build import build_checkpoint
from tofe_export.model.checkpoint import Checkpoint, load_checkpoint
from tofe_export.training.data import TrainingData
from tofe_export.training.recipe import Recipe
from tofe_export.training.report import StepReport
from tofe_export.training.samples import ArraySamples
from tofe_export.training.session import create_accelerator
from tofe_export.training.train import Run, Trained, train

ARGUMENTS = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 4}
RECIPE = Recipe(epochs=2, fixed_epochs=0, batch_size=16, lr=1e-3, augment="none", ema=0.9)


def images(count: int, classes: int = 4) -> ArraySamples:
    random = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % classes
    pixels = torch.randn(count, 3, 16, 16, generator=random) + labels[:, None, None, None]
    return ArraySamples(pixels, labels, 0, (3, 16))


def data(classes: tuple[str, ...] = ("a", "b", "c", "d")) -> TrainingData:
    return TrainingData(images(48), images(20), classes, "drawn", "fingerprint")


def checkpoint(conditioned: bool = False) -> Checkpoint:
    torch.manual_seed(0)
    return build_checkpoint("vit_tiny_patch16_224", None, arguments=ARGUMENTS, conditioned=conditioned)


def budget(share: float) -> float:
    least, most = (gmacs(macs(checkpoint().model.cost(), (k,) * 3)) for k in (1, 16))
    return round(least + share * (most - least), 6)


def run(
    start: Checkpoint, recipe: Recipe, given: TrainingData | None = None, **options: Any
) -> tuple[Trained | None, list[str], list[str]]:
    said: list[str] = []
    warned: list[str] = []
    how = Run(
        accelerator=create_accelerator(recipe, cpu=True), say=said.append, warn=warned.append, **options
    )
    return train(start, given or data(), recipe, how), said, warned


def test_a_checkpoint_with_one_budget(tmp_path: Path) -> None:
    start, reports = checkpoint(), list[StepReport]()
    backbone = {name: weight.clone() for name, weight in start.model.state_dict().items()}
    trained, said, _ = run(start, replace(RECIPE, budgets=(budget(0.4),)), on_step=reports.append)
    assert trained is not None
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6]
    assert said[0].startswith("backbone: top-1 ")
    assert start.trained
    assert start.classes == ("a", "b", "c", "d")
    assert start.table == (trained.settled[0].row,)
    assert any(not torch.equal(weight, backbone[name]) for name, weight in start.model.state_dict().items())
    history = start.history
    assert history["recipe"]["epochs"] == 2
    assert history["data"]["fingerprint"] == "fingerprint"
    assert history["budgets"][0]["top1"] == trained.static[0].accuracy(1)
    assert history["budgets"][0]["gmacs_mean"] == trained.settled[0].sampled.gmacs_mean
    start.save(tmp_path / "tofe.pt")
    assert load_checkpoint(tmp_path / "tofe.pt").history == history


def test_several_budgets_share_one_conditioned_model() -> None:
    recipe = replace(RECIPE, budgets=(budget(0.3), budget(0.7)))
    trained, *_ = run(checkpoint(conditioned=True), recipe)
    assert trained is not None
    assert [row.budget_gmacs for row in trained.checkpoint.table] == list(recipe.budgets)
    assert len(trained.static) == 2


def test_several_budgets_need_a_conditioned_model() -> None:
    with pytest.raises(UsageError, match="build the checkpoint conditioned"):
        run(checkpoint(), replace(RECIPE, budgets=(budget(0.3), budget(0.7))))


def test_fixed_ratios_need_no_budget() -> None:
    trained, *_ = run(checkpoint(), replace(RECIPE, ratios=(0.5, 0.25, 0.125)))
    assert trained is not None
    assert trained.checkpoint.table[0].keep == (8, 4, 2)


def test_the_same_seed_gives_the_same_checkpoint() -> None:
    recipe = replace(RECIPE, budgets=(budget(0.4),))
    first, second = checkpoint(), checkpoint()
    run(first, recipe)
    run(second, recipe)
    assert first.table == second.table
    states = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(weight, states[1][name]) for name, weight in states[0].items())


def test_a_stopped_training_gives_nothing_and_goes_on_later(tmp_path: Path) -> None:
    recipe, seen = replace(RECIPE, budgets=(budget(0.4),)), list[StepReport]()
    whole, cut = checkpoint(), checkpoint()
    run(whole, recipe)
    state = tmp_path / "state"
    stop: dict[str, Any] = {
        "should_stop": lambda: len(seen) == 3,
        "on_step": seen.append,
        "state_path": state,
    }
    assert run(cut, recipe, **stop)[0] is None
    assert not cut.trained
    again = checkpoint()
    assert run(again, recipe, state_path=state, resume=True)[0] is not None
    assert again.table == whole.table
    with pytest.raises(UsageError, match=r"lr: 0\.001 -> 0\.002"):
        run(checkpoint(), replace(recipe, lr=2e-3), state_path=state, resume=True)


def test_what_cannot_work_is_refused_at_once() -> None:
    with pytest.raises(BudgetError, match="cannot be met"):
        run(checkpoint(), replace(RECIPE, budgets=(1.0,)))
    with pytest.raises(InputError, match="expected 4 class folders"):
        run(checkpoint(), replace(RECIPE, budgets=(budget(0.4),)), data(("a", "b")))


def test_a_backbone_no_better_than_chance_and_a_missed_budget_are_said() -> None:
    *_, warned = run(checkpoint(), replace(RECIPE, budgets=(budget(0.1),)))
    assert "no better than chance" in warned[0]
    assert "was missed by +" in warned[1]


def test_names_that_were_assumed_give_way_to_the_folders() -> None:
    """A head of 1000 classes is taken for ImageNet's; folders that share no name with them are other data."""
    start = checkpoint()
    start.classes = ("n01 tench", "n02 shark", "n03 hen", "n04 ox")
    trained, _, _ = run(start, replace(RECIPE, budgets=(budget(0.5),), epochs=1))
    assert trained is not None
    assert trained.checkpoint.classes == ("a", "b", "c", "d")
    start = checkpoint()
    start.classes = ("n01 tench", "n02 shark", "n03 hen", "n04 ox")
    with pytest.raises(InputError, match="2 that differ"):
        run(start, replace(RECIPE, budgets=(budget(0.5),)), data(("n01", "n02", "c", "d")))
