"""Training arrives at counts that an export takes as they are, and at thresholds for the same mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tofe_export.budget import dense_macs, gmacs, macs, printed
from tofe_export.errors import BudgetError, UsageError
from tofe_export.keep import solve
from tofe_export.model.freezer import AdaptiveFreezer
from tofe_export.model.tofe import ToFe
from tofe_export.training.evaluate import evaluate, in_batches
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import ArraySamples
from tofe_export.training.settle import Settled, check_targets, settle

MakeStudent = Callable[..., ToFe]


def samples() -> ArraySamples:
    images = torch.randn(24, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    return ArraySamples(images, [0] * 24, 0, (3, 16))


def run(model: ToFe, recipe: Recipe) -> list[Settled]:
    return settle(model, recipe, in_batches(samples(), range(16), 8), in_batches(samples(), range(24), 8))


def budget_between(model: ToFe, share: float) -> float:
    least, most = (gmacs(macs(model.cost(), (k,) * 3)) for k in (1, 16))
    return least + share * (most - least)


def test_a_row_is_within_its_budget_and_export_takes_it_as_it_is(make_student: MakeStudent) -> None:
    model = make_student()
    budget = budget_between(model, 0.3)  # the untrained student spends more
    (one,) = run(model, Recipe(budgets=(budget,)))
    assert one.sampled.gmacs_mean > budget
    assert one.off_target == pytest.approx(one.sampled.gmacs_mean / budget - 1)
    plan = solve(model.cost(), budget, [one.row])
    assert (plan.keep, plan.thresholds) == (one.row.keep, one.row.thresholds)
    assert float(printed(one.gmacs)) <= float(printed(budget))
    assert one.row.source.startswith("training, scaled down")


def test_counts_below_the_budget_stay(make_student: MakeStudent) -> None:
    model = make_student()
    (one,) = run(model, Recipe(budgets=(budget_between(model, 0.95),)))
    assert one.row.source == "training"
    assert one.gmacs == pytest.approx(one.sampled.gmacs_mean, rel=0.02)


def test_thresholds_keep_as_many_on_average(make_student: MakeStudent) -> None:
    model = make_student()
    (one,) = run(model, Recipe(budgets=(budget_between(model, 0.6),)))
    assert one.row.thresholds is not None
    found = evaluate(model, in_batches(samples(), range(24), 8), AdaptiveFreezer(one.row.thresholds))
    assert found.kept.mean(axis=0) == pytest.approx(one.row.keep, abs=0.1)


def test_each_budget_of_a_conditioned_model_has_its_row(make_student: MakeStudent) -> None:
    model = make_student(conditioned=True)
    with torch.no_grad():
        for name, weight in model.selectors.named_parameters():
            if name.endswith("condition"):
                weight.fill_(5.0)
    low, high = run(model, Recipe(budgets=(budget_between(model, 0.3), budget_between(model, 0.7))))
    assert low.sampled.keep_mean != high.sampled.keep_mean


def test_fixed_ratios_are_their_own_counts(make_student: MakeStudent) -> None:
    model = make_student()
    (one,) = run(model, Recipe(ratios=(0.5, 0.25, 0.125)))
    assert (one.row.keep, one.row.source) == ((8, 4, 2), "fixed ratios")
    assert solve(model.cost(), one.row.budget_gmacs, [one.row]).keep == (8, 4, 2)


def test_targets_are_checked_before_training(make_student: MakeStudent) -> None:
    cost = make_student().cost()
    with pytest.raises(BudgetError, match="cannot be met"):
        check_targets(cost, Recipe(budgets=(0.5 * gmacs(dense_macs(cost)), 100.0)))
    with pytest.raises(UsageError, match="expected a budget"):
        check_targets(cost, Recipe())
    with pytest.raises(UsageError, match="cost of their own"):
        check_targets(cost, Recipe(budgets=(1.0,), ratios=(0.5, 0.5, 0.5)))
    with pytest.raises(UsageError, match="expected 3 keep counts"):
        check_targets(cost, Recipe(ratios=(0.5,)))
    with pytest.raises(UsageError, match="without reuse"):
        check_targets(make_student(reuse=False).cost(), Recipe(ratios=(0.2, 0.5, 0.2)))
