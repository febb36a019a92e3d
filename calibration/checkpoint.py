"""Calibrate a checkpoint: for each budget a row with counts (`tokens`) and thresholds (`thresholds`).

Both parts stand alone. Counts without thresholds leave the row without them, unless the counts stayed as they
were: thresholds belong to the counts they were measured with. Thresholds without counts belong to those that
an export for this budget would take anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tofe_export.budget import gmacs, macs
from tofe_export.calibration.report import COUNTS, entry_for, with_row
from tofe_export.calibration.stream import ImageStream
from tofe_export.calibration.targets import Target
from tofe_export.calibration.tensors import Tensors
from tofe_export.calibration.thresholds import Thresholds, settle_thresholds
from tofe_export.calibration.tokens import Images, Say, Solved, solve_tokens
from tofe_export.errors import UsageError
from tofe_export.keep import Measured, Plan
from tofe_export.model.checkpoint import Checkpoint

PARTS = ("tokens", "thresholds")


@dataclass(frozen=True)
class Calibrated:
    """What became of one target."""

    target: Target
    row: Measured
    gmacs: float
    """Cost of the row's counts, in the paper's account."""
    solved: Solved | None
    thresholds: Thresholds | None

    def methods(self) -> dict[str, Any]:
        """The figures of each part, as plain data."""
        found: dict[str, Any] = {"target": self.target.name}
        if self.solved is not None:
            found["tokens"] = self.solved.to_json()
        if self.thresholds is not None:
            found["adaptive"] = {
                "keep_mean": list(self.thresholds.keep_mean),
                "gmacs_mean": self.thresholds.gmacs_mean,
            }
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"row": asdict(self.row), "gmacs": self.gmacs, **self.methods()}


def targets_for(checkpoint: Checkpoint, budgets: Sequence[float], align: int = 1) -> list[Target]:
    """The budgets in GMACs, or without any those of the checkpoint's table.

    Raises BudgetError for a budget out of reach, UsageError where there is none.
    """
    wanted = tuple(budgets) or tuple(dict.fromkeys(row.budget_gmacs for row in checkpoint.table))
    if not wanted:
        raise UsageError("the checkpoint was trained for no budget: say which by --budget GMACS")
    cost = checkpoint.model.cost()
    return [Target.of_budget(cost, budget, checkpoint.table, align) for budget in wanted]


def calibrate_checkpoint(
    checkpoint: Checkpoint,
    stream: ImageStream,
    targets: Sequence[Target],
    *,
    parts: Sequence[str] = PARTS,
    against: str = "dense",
    say: Say = lambda text: None,
) -> tuple[Checkpoint, list[Calibrated]]:
    """The checkpoint with a row per target, and what was found; `stream` has been looked at once.

    Raises ImageError and InputError for images that are not usable.
    """
    images = Images.of(stream) if "tokens" in parts else None
    facts, found, made = stream.facts(), list[Calibrated](), checkpoint
    for target in targets:
        solved = None
        if images is not None:
            solved = solve_tokens(checkpoint.model, images, target, against=against, say=say)
        one = _settle(checkpoint, stream, target, solved, "thresholds" in parts, say)
        found.append(one)
        made = with_row(made, one.row, entry_for(one.row, facts, one.methods()))
    return made, found


def _settle(
    checkpoint: Checkpoint,
    stream: ImageStream,
    target: Target,
    solved: Solved | None,
    thresholds: bool,
    say: Say,
) -> Calibrated:
    """The row of one target."""
    plan = target.plan
    keep = solved.keep if solved else plan.keep
    values, settled = (plan.thresholds if keep == plan.keep else None), None
    cost = checkpoint.model.cost()
    budget = target.budget_gmacs(cost, keep)  # what an export of the row tells conditioned selectors
    if thresholds:
        images = Tensors(stream, checkpoint.model)
        settled = settle_thresholds(checkpoint.model, images, keep, budget, say)
        values = settled.values
    row = Measured(budget, keep, values, _source(plan, solved))
    return Calibrated(target, row, gmacs(macs(cost, keep)), solved, settled)


def _source(plan: Plan, solved: Solved | None) -> str:
    """Where the counts come from."""
    if solved is None:
        return plan.source
    return COUNTS if solved.changed else f"{solved.start_source}, confirmed by calibration"
