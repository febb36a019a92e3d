"""What `eval` measures for which options, and what it says of it."""

from __future__ import annotations

import numpy as np
import pytest

from tofe_export.cli import eval as command
from tofe_export.errors import BudgetError, MissingBackend, UsageError
from tofe_export.keep import Measured, Plan
from tofe_export.model.build import build_checkpoint
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.freezer import AdaptiveFreezer, StaticFreezer
from tofe_export.training.evaluate import Evaluation, Row

ARGUMENTS = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 3}
ROW = Measured(0.00042, (6, 6, 5), (0.1, 0.2, 0.3), "training")


@pytest.fixture
def checkpoint() -> Checkpoint:
    made = build_checkpoint("vit_tiny_patch16_224", None, arguments=ARGUMENTS)
    made.table = (ROW,)
    return made


def test_without_a_budget_the_trained_ones_are_measured(checkpoint: Checkpoint) -> None:
    (plan,) = command.plans(checkpoint, "static", ())
    assert plan is not None
    assert (plan.budget_gmacs, plan.keep, plan.thresholds) == (0.00042, (6, 6, 5), (0.1, 0.2, 0.3))


def test_any_budget_can_be_measured_in_static_mode(checkpoint: Checkpoint) -> None:
    (plan,) = command.plans(checkpoint, "static", (0.0005,))
    assert plan is not None
    assert plan.source.startswith("training, scaled up")
    with pytest.raises(BudgetError, match="cannot be met"):
        command.plans(checkpoint, "static", (7.0,))


def test_the_dense_model_has_no_budget(checkpoint: Checkpoint) -> None:
    assert command.plans(checkpoint, "dense", ()) == [None]
    with pytest.raises(UsageError, match="freezes nothing"):
        command.plans(checkpoint, "dense", (0.0005,))


def test_adaptive_mode_needs_thresholds(checkpoint: Checkpoint) -> None:
    with pytest.raises(UsageError, match=r"none for 0\.000500 GMACs, but for 0\.000420"):
        command.plans(checkpoint, "adaptive", (0.0005,))
    checkpoint.table = ()
    with pytest.raises(UsageError, match="trained for no budget"):
        command.plans(checkpoint, "adaptive", ())


def test_a_mode_is_a_freezer() -> None:
    plan = Plan(0.00042, ROW.keep, ROW.thresholds, "training", 0.00042)
    static, adaptive = command.freezer_of("static", plan), command.freezer_of("adaptive", plan)
    assert isinstance(static, StaticFreezer)
    assert static.keep == ROW.keep
    assert isinstance(adaptive, AdaptiveFreezer)
    assert adaptive.thresholds == ROW.thresholds
    assert command.freezer_of("dense", None) is None


@pytest.mark.parametrize("name", ["nosuch", "cuda:99"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(MissingBackend, match=f"--device {name} cannot be used"):
        command.find_device(name)


def test_the_tables() -> None:
    plan = Plan(0.00042, ROW.keep, ROW.thresholds, "training", 0.00042)
    rows = (Row(0, (6, 6, 4), (2, 1)), Row(1, (6, 4, 4), (1, 1)))
    judged = Evaluation("adaptive", rows, np.array([0.00042, 0.0004]), np.array([0.0004, 0.00038]))
    text = command.text([(plan, judged)])
    assert "adaptive, 2 pictures   top-1    top-5" in text
    assert "0.000420 GMACs        50.00%  100.00%   0.000390  0.000410" in text
    stages = [line.split() for line in text.splitlines() if line.startswith("0.000420 GMACs ")][1:]
    assert stages[0][2:6] == ["1", "6.00", "-", "-"]
    assert stages[1][2:6] == ["2", "5.00", "1.50", "30.00%"]
