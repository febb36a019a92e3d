"""Budgets in GMACs and in milliseconds, asked for the largest counts of a profile."""

from __future__ import annotations

import pytest
from known_costs import SMALL as COST

from tofe_export.budget import gmacs, macs, printed
from tofe_export.calibration.targets import Target
from tofe_export.errors import BudgetError
from tofe_export.keep import Measured
from tofe_export.latency.predict import Predictor
from tofe_export.latency.table import Entry, Step

STEPS = tuple(Step(keep, 0.2 + keep / 100, 0.2, None, 5) for keep in (4, 16, 40))
PREDICTOR = Predictor(Entry((32, 32), "scatter", "fp32", 1, 2, COST, 10.0, 0.01, STEPS))


def test_a_budget_in_gmacs_is_filled_and_not_exceeded() -> None:
    target = Target.of_budget(COST, 0.003, ())
    for profile in ([1, 1, 1], [9000, 10, 1], [1, 2, 3]):
        keep = target.fill(profile)
        price = gmacs(macs(COST, keep))
        assert float(printed(price)) <= 0.003
        assert gmacs(macs(COST, tuple(min(64, count + 1) for count in keep))) > 0.003
    assert target.name == "0.00300 GMACs"
    assert not target.learned
    assert target.budget_gmacs(COST, (1, 1, 1)) == 0.003


def test_the_plan_is_what_an_export_would_take() -> None:
    row = Measured(0.003, (16, 16, 16), (1.0, 2.0, 3.0), "training")
    target = Target.of_budget(COST, 0.003, (row,))
    assert target.learned
    assert (target.plan.keep, target.plan.thresholds) == (row.keep, row.thresholds)
    with pytest.raises(BudgetError, match="cannot be met"):
        Target.of_budget(COST, 3.0, (row,))


def test_a_latency_is_filled_within_what_was_measured() -> None:
    target = Target.of_latency(PREDICTOR, 4.0, ())
    for profile in ([1, 1, 1], [9000, 10, 1], [1, 2, 3]):
        keep = target.fill(profile)
        assert PREDICTOR.ms(keep) <= 4.0
        assert all(4 <= count <= 40 for count in keep)
    assert target.name == "4 ms"
    assert target.budget_gmacs(COST, (8, 8, 8)) == float(printed(gmacs(macs(COST, (8, 8, 8)))))
    assert not target.learned


def test_latencies_out_of_reach_and_rows_that_were_not_measured() -> None:
    for budget in (1.0, 10.0, float("nan")):
        with pytest.raises(BudgetError, match=r"expected a latency from 2\.40 ms"):
            Target.of_latency(PREDICTOR, budget, ())
    inside, outside = Measured(0.003, (20, 10, 5), None, "a"), Measured(0.003, (60, 10, 5), None, "b")
    assert Target.of_latency(PREDICTOR, 4.0, (inside,)).learned
    assert not Target.of_latency(PREDICTOR, 4.0, (outside,)).learned


def test_multiples_hold_for_both() -> None:
    assert all(k % 8 == 0 for k in Target.of_budget(COST, 0.003, (), 8).fill([5, 3, 2]))
    assert all(k % 8 == 0 for k in Target.of_latency(PREDICTOR, 4.0, (), 8).fill([5, 3, 2]))
