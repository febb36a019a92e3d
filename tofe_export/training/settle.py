"""From trained selectors to a row of the checkpoint's table: whole counts for a budget, and thresholds.

Counts are measured as the paper records them: sampled, on training images as the training saw them. They are
rounded to counts that cost no more than the budget (as printed), so that an export for this budget takes them
as they are. Thresholds then make the mean count of held-out images, each for itself, equal to these counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import floor
from typing import NamedTuple

from tofe_export.budget import Cost, check_keep, gmacs, macs, printed
from tofe_export.errors import UsageError
from tofe_export.keep import Measured, solve
from tofe_export.model.tofe import ToFe
from tofe_export.training.batch import Batch
from tofe_export.training.measure import Counts, calibrate_thresholds, measure_counts, round_counts
from tofe_export.training.recipe import Recipe


class Settled(NamedTuple):
    """What became of one budget."""

    row: Measured
    """For the table."""
    gmacs: float
    """Cost of the row's counts in the paper's account."""
    sampled: Counts
    """What sampling kept on average, and what that cost."""

    @property
    def off_target(self) -> float:
        """By which share of the budget the mean cost of sampling missed it; negative below it."""
        return self.sampled.gmacs_mean / self.row.budget_gmacs - 1


def check_targets(cost: Cost, recipe: Recipe) -> None:
    """Raise before anything is trained: BudgetError, or UsageError for ratios or for no target at all."""
    if recipe.ratios:
        if recipe.budgets:
            raise UsageError("give --budget or --ratios: fixed keep ratios have a cost of their own")
        fixed_counts(cost, recipe)
    elif not recipe.budgets:
        raise UsageError("expected a budget in GMACs: give --budget 2.0, or fixed keep ratios by --ratios")
    for budget in recipe.budgets:
        solve(cost, budget)


def fixed_counts(cost: Cost, recipe: Recipe) -> tuple[int, ...]:
    """The counts that fixed ratios stand for. Raises UsageError for ratios that the model cannot keep."""
    keep = tuple(max(1, floor(ratio * cost.tokens + 0.5)) for ratio in recipe.ratios)
    try:
        check_keep(cost, keep)
    except ValueError as error:
        raise UsageError(f"--ratios: {error}") from error
    return keep


def settle(
    model: ToFe,
    recipe: Recipe,
    training: Iterable[Batch],
    held_out: Iterable[Batch],
) -> list[Settled]:
    """Settle every budget of the recipe, or its fixed ratios; both iterables are gone through more than once.

    Raises InputError where there are no images.
    """
    targets: tuple[float | None, ...] = recipe.budgets or (None,)
    return [_settle(model, recipe, target, training, held_out) for target in targets]


def _settle(
    model: ToFe,
    recipe: Recipe,
    budget: float | None,
    training: Iterable[Batch],
    held_out: Iterable[Batch],
) -> Settled:
    cost = model.cost()
    counts = measure_counts(model, training, budget)
    if budget is None:
        keep, source = fixed_counts(cost, recipe), "fixed ratios"
        budget = float(printed(gmacs(macs(cost, keep))))
    else:
        measured = Measured(budget, round_counts(cost, counts, budget), None, "training")
        plan = solve(cost, budget, [measured])
        keep, source = plan.keep, plan.source
    thresholds = calibrate_thresholds(model, held_out, keep, budget)
    return Settled(Measured(budget, keep, thresholds, source), gmacs(macs(cost, keep)), counts)
