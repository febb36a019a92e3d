"""What calibration leaves in a checkpoint, and that each part stands alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tofe_export.budget import gmacs, macs
from tofe_export.calibration import checkpoint as module
from tofe_export.calibration.checkpoint import calibrate_checkpoint, targets_for
from tofe_export.calibration.images import select
from tofe_export.calibration.report import entries_of, entry_for, line, provenance, with_row
from tofe_export.calibration.stream import ImageStream
from tofe_export.calibration.targets import Target
from tofe_export.calibration.thresholds import Thresholds, settle_thresholds
from tofe_export.errors import BudgetError, UsageError
from tofe_export.keep import Measured, Plan, solve
from tofe_export.model.checkpoint import Checkpoint, load_checkpoint
from tofe_export.model.tofe import ToFe

Make = Callable[..., Any]
BUDGET = 0.00042
ROW = Measured(BUDGET, (9, 5, 3), (0.1, 0.2, 0.3), "training")


@pytest.fixture
def checkpoint(make_checkpoint: Make) -> Checkpoint:
    made: Checkpoint = make_checkpoint()
    made.table = (ROW, Measured(0.0005, (12, 9, 6), None, "training"))
    made.history = {"made by": "a test"}
    return made


@pytest.fixture
def stream(tmp_path: Path, checkpoint: Checkpoint, write_pictures: Make) -> ImageStream:
    folder = write_pictures(tmp_path / "pictures", 24)
    return ImageStream(select(folder), checkpoint.preprocessing, batch=8).check()


def test_both_parts_make_one_row(checkpoint: Checkpoint, stream: ImageStream) -> None:
    targets = targets_for(checkpoint, (BUDGET,))
    made, (found,) = calibrate_checkpoint(checkpoint, stream, targets)
    assert made.table == (checkpoint.table[1], found.row)
    assert found.row.source in ("calibration", "training, confirmed by calibration")
    assert found.thresholds is not None
    assert found.row.thresholds == found.thresholds.values
    assert found.thresholds.gmacs_mean <= found.gmacs == gmacs(macs(checkpoint.model.cost(), found.row.keep))
    assert found.thresholds.images == 24
    assert solve(made.model.cost(), BUDGET, made.table).keep == found.row.keep  # what an export takes
    assert checkpoint.table[0] == ROW  # the one that came in is untouched


def test_the_history_says_which_images_how_and_when(checkpoint: Checkpoint, stream: ImageStream) -> None:
    made, (found,) = calibrate_checkpoint(checkpoint, stream, targets_for(checkpoint, (BUDGET,)))
    (entry,) = entries_of(made.history)
    assert made.history["made by"] == "a test"
    assert entry["images"] == stream.facts().to_json()
    assert entry["images"]["sha256"] == stream.selection.sha256()
    assert entry["keep"] == list(found.row.keep)
    assert entry["tokens"]["against"] == "dense"
    assert entry["adaptive"]["gmacs_mean"] <= found.gmacs
    assert entry["when"].startswith("20")
    (replaced,) = entry["replaced"]
    assert (replaced["keep"], replaced["source"]) == ([9, 5, 3], "training")


def test_thresholds_alone_keep_the_counts(checkpoint: Checkpoint, stream: ImageStream) -> None:
    targets = targets_for(checkpoint, (BUDGET,))
    made, (found,) = calibrate_checkpoint(checkpoint, stream, targets, parts=("thresholds",))
    assert (found.row.keep, found.row.source, found.solved) == (ROW.keep, "training", None)
    assert found.row.thresholds != ROW.thresholds
    assert "tokens" not in entries_of(made.history)[0]


def test_tokens_alone_keep_thresholds_only_with_their_counts(
    checkpoint: Checkpoint, stream: ImageStream
) -> None:
    targets = targets_for(checkpoint, (BUDGET,))
    _, (found,) = calibrate_checkpoint(checkpoint, stream, targets, parts=("tokens",))
    assert found.thresholds is None
    assert found.row.thresholds == (ROW.thresholds if found.row.keep == ROW.keep else None)


def test_thresholds_are_settled_for_the_budget_that_is_exported(
    checkpoint: Checkpoint, stream: ImageStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conditioned selectors score by it: for a latency that of the counts, not that of the first guess."""
    settle, asked = settle_thresholds, list[float]()

    def noted(model: ToFe, images: Any, keep: Any, budget: float, say: Any) -> Thresholds:
        asked.append(budget)
        return settle(model, images, keep, budget, say)

    monkeypatch.setattr(module, "settle_thresholds", noted)
    first = Plan(0.0005, ROW.keep, None, "training", gmacs(macs(checkpoint.model.cost(), ROW.keep)))
    target = Target("3 ms", first, lambda profile: ROW.keep, learned=True, in_gmacs=False)
    _, (found,) = calibrate_checkpoint(checkpoint, stream, [target], parts=("thresholds",))
    assert asked == [found.row.budget_gmacs]
    assert found.row.budget_gmacs != first.budget_gmacs


def test_without_budgets_every_row_is_calibrated(checkpoint: Checkpoint, stream: ImageStream) -> None:
    targets = targets_for(checkpoint, ())
    assert [target.plan.budget_gmacs for target in targets] == [BUDGET, 0.0005]
    made, found = calibrate_checkpoint(checkpoint, stream, targets, parts=("thresholds",))
    assert [row.keep for row in made.table] == [one.row.keep for one in found]
    assert len(entries_of(made.history)) == 2


def test_budgets_that_cannot_be(checkpoint: Checkpoint) -> None:
    with pytest.raises(BudgetError, match="cannot be met"):
        targets_for(checkpoint, (7.0,))
    checkpoint.table = ()
    with pytest.raises(UsageError, match="trained for no budget"):
        targets_for(checkpoint, ())


def test_it_survives_the_file(checkpoint: Checkpoint, stream: ImageStream, tmp_path: Path) -> None:
    made, _ = calibrate_checkpoint(checkpoint, stream, targets_for(checkpoint, (BUDGET,)))
    for name in ("made.pt", "made.safetensors"):
        made.save(tmp_path / name)
        read = load_checkpoint(tmp_path / name)
        assert read.table == made.table
        assert read.history == made.history


def test_provenance_belongs_to_the_very_counts(checkpoint: Checkpoint, stream: ImageStream) -> None:
    made, (found,) = calibrate_checkpoint(checkpoint, stream, targets_for(checkpoint, (BUDGET,)))
    plan = solve(made.model.cost(), BUDGET, made.table)
    entry = provenance(made.history, plan)["calibration"]
    assert entry["images"]["count"] == 24
    assert "candidates" not in entry["tokens"]
    assert "candidates" in entries_of(made.history)[0]["tokens"]
    said = line(entry)
    assert "tokens, against dense and thresholds on 24 of 24 pictures of pictures (seed 0, sha256" in said
    other = Plan(BUDGET, (1, 1, 1), None, "training", 0.0003)
    assert provenance(made.history, other) == {}
    scaled = solve(made.model.cost(), 0.00045, made.table)
    assert provenance(made.history, scaled) == {}
    assert provenance(made.history, None) == {}
    assert provenance({"calibration": "something else"}, plan) == {}
    assert found.to_json()["row"]["keep"] == found.row.keep


def test_a_second_calibration_remembers_the_first(checkpoint: Checkpoint, stream: ImageStream) -> None:
    row = Measured(BUDGET, (8, 6, 3), None, "calibration")
    facts = stream.facts()
    first = with_row(checkpoint, row, entry_for(row, facts, {}))
    other = Measured(BUDGET, (8, 5, 4), None, "calibration")
    second = with_row(first, other, entry_for(other, facts, {}))
    assert second.table == (checkpoint.table[1], other)
    old, new = entries_of(second.history)
    assert old["replaced"][0]["keep"] == [9, 5, 3]
    assert new["replaced"][0]["keep"] == [8, 6, 3]
    assert provenance(second.history, solve(second.model.cost(), BUDGET, second.table))["calibration"][
        "keep"
    ] == [8, 5, 4]
