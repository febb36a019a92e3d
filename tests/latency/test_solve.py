"""Keep counts for milliseconds: within, as many as fit, deterministic, refused out of reach."""

from __future__ import annotations

from collections.abc import Callable
from math import nan

import pytest

from tofe_export.budget import printed
from tofe_export.errors import BudgetError
from tofe_export.keep import Measured
from tofe_export.latency.predict import Predictor
from tofe_export.latency.solve import solve_ms
from tofe_export.latency.table import Entry

MakeEntry = Callable[..., Entry]


@pytest.mark.parametrize("ms", [17.0, 20.0, 25.0, 33.3, 45.0, 49.9])
def test_the_largest_scale_within_the_time(entry: Entry, ms: float) -> None:
    """Against brute force over the scale of the paper's profile."""
    predictor = Predictor(entry)
    scales = (step / 1000 for step in range(32_000))
    tried = dict.fromkeys(
        tuple(max(6, min(196, int(scale * share + 0.5))) for share in (49, 25, 14)) for scale in scales
    )
    best = [keep for keep in tried if predictor.ms(keep) <= ms][-1]
    plan = solve_ms(predictor, ms)
    assert plan.keep == best
    assert predictor.ms(plan.keep) <= ms
    assert plan == solve_ms(Predictor(entry), ms)


def test_the_plan_is_named_by_its_cost(entry: Entry) -> None:
    plan = solve_ms(Predictor(entry), 21.3)
    assert printed(plan.budget_gmacs) == printed(plan.gmacs)
    assert plan.source.startswith("paper profile, scaled to 21.")
    assert plan.source.endswith(" ms of 21.3")


def test_alignment(entry: Entry) -> None:
    plan = solve_ms(Predictor(entry), 25.0, align=8)
    assert all(k % 8 == 0 and k >= 8 for k in plan.keep)
    with pytest.raises(
        BudgetError, match="align: expected a number with multiples among the measured 6 to 196"
    ):
        solve_ms(Predictor(entry), 25.0, align=197)


def test_the_nearest_row_gives_the_profile(entry: Entry) -> None:
    predictor = Predictor(entry)
    rows = [
        Measured(1.8, (60, 30, 15), (0.1, 0.2, 0.3), "training"),
        Measured(3.0, (100, 100, 100), (0.4, 0.5, 0.6), "calibration"),
    ]
    near = solve_ms(predictor, predictor.ms((102, 102, 102)), rows)
    assert near.keep == (102, 102, 102)
    assert near.source.startswith("calibration, scaled to")
    assert near.thresholds is None
    exact = solve_ms(predictor, predictor.ms((60, 30, 15)) + 1e-9, rows)
    assert (exact.keep, exact.thresholds) == ((60, 30, 15), (0.1, 0.2, 0.3))


def test_a_row_outside_the_table_gives_no_profile(make_entry: MakeEntry) -> None:
    predictor = Predictor(make_entry(counts=(24, 49, 98)))
    plan = solve_ms(predictor, 25.0, [Measured(1.8, (100, 30, 15), None, "training")])
    assert plan.source.startswith("paper profile")
    assert min(plan.keep) >= 24
    assert max(plan.keep) <= 98


def test_the_latency_that_a_refusal_names_can_be_met(make_entry: MakeEntry) -> None:
    predictor = Predictor(make_entry(dense_ms=33.33))  # 6 tokens in each stage: 10.719 ms
    with pytest.raises(BudgetError, match=r"from 10\.72 ms \(6 tokens"):
        solve_ms(predictor, 10.71)
    assert set(solve_ms(predictor, 10.72).keep) == {6}
    assert set(solve_ms(predictor, predictor.ms((6, 6, 6))).keep) == {6}


def test_nothing_is_faster_than_dense(make_entry: MakeEntry) -> None:
    slow = Predictor(make_entry(lambda k: 1.02 + 0.001 * k))
    message = r"below the dense model's 50\.00 ms, since 6 tokens in each stage take 51\.30 ms"
    with pytest.raises(BudgetError, match=message):
        solve_ms(slow, 40.0)


@pytest.mark.parametrize("ms", [16.0, 50.0, 80.0, 0.0, -3.0, nan, float("inf")])
def test_times_out_of_reach(entry: Entry, ms: float) -> None:
    expected = r"from 16\.08 ms \(6 tokens in each stage\) to below 50\.00 ms \(dense\)"
    with pytest.raises(BudgetError, match=expected):
        solve_ms(Predictor(entry), ms)
