"""The solver: counts within the budget, as many as fit, and always the same ones."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations
from math import inf, nan

import pytest
from known_costs import DEIT_S

from tofe_export.budget import Cost, gmacs, macs, printed
from tofe_export.errors import BudgetError
from tofe_export.keep import Measured, Plan, plan_for_keep, solve

WITHOUT_REUSE = replace(DEIT_S, reuse=False)
BUDGETS = [
    hundredths / 100 for hundredths in range(145, 465, 3)
]  # reached with and without reuse and alignment


def row(budget: float, keep: tuple[int, ...], source: str = "training") -> Measured:
    return Measured(budget, keep, (0.1, 0.2, 0.3), source)


def within(plan: Plan) -> bool:
    return float(printed(plan.gmacs)) <= float(printed(plan.budget_gmacs))


def test_the_papers_profile_at_2_00() -> None:
    plan = solve(DEIT_S, 2.0)
    assert plan == Plan(2.0, (70, 35, 20), None, "paper profile, scaled", gmacs(macs(DEIT_S, (70, 35, 20))))
    assert plan.gmacs == pytest.approx(2.001, abs=5e-4)


def test_other_stage_counts_halve() -> None:
    plan = solve(replace(DEIT_S, locations=(3, 5, 7, 9)), 2.3)
    assert plan.source == "halving profile, scaled"
    for more, fewer in pairwise(plan.keep):
        assert fewer == pytest.approx(more / 2, abs=1)


@pytest.mark.parametrize("cost", [DEIT_S, WITHOUT_REUSE])
@pytest.mark.parametrize("align", [1, 8])
def test_every_budget_is_met_and_filled(cost: Cost, align: int) -> None:
    plans = [solve(cost, budget, align=align) for budget in BUDGETS]
    assert all(within(plan) for plan in plans)
    assert all(1 <= k <= 196 and k % align == 0 for plan in plans for k in plan.keep)
    assert cost.reuse or all(plan.keep == tuple(sorted(plan.keep, reverse=True)) for plan in plans)
    for smaller, larger in pairwise(plans):
        assert all(a <= b for a, b in zip(smaller.keep, larger.keep, strict=True))


def test_the_largest_scale_is_found() -> None:
    """Against brute force: every scale from 0 to 7.2 (where all tokens are kept) in steps of 0.0005."""
    priced = []
    for step in range(14_400):
        keep = tuple(max(1, min(196, round(step / 2000 * share * 1.96))) for share in (49, 25, 14))
        priced.append((float(printed(gmacs(macs(DEIT_S, keep)))), keep))
    for budget in (1.34, 1.5, 1.99, 2.0, 2.3, 3.14, 4.0, 4.7):
        assert solve(DEIT_S, budget).keep == [keep for cost, keep in priced if cost <= budget][-1]


@pytest.mark.parametrize("cost", [DEIT_S, WITHOUT_REUSE])
@pytest.mark.parametrize("align", [1, 7, 196])
def test_both_ends_are_reached(cost: Cost, align: int) -> None:
    least = gmacs(macs(cost, (align,) * 3))
    most = gmacs(macs(cost, (196,) * 3))
    assert solve(cost, most, align=align).keep == (196,) * 3
    assert min(solve(cost, least, align=align).keep) == align
    for beyond in (least - 0.01, most + 0.01):
        reach = f"{printed(least)} to {printed(most)} GMACs, with {align} to 196 patch tokens"
        with pytest.raises(BudgetError, match=reach):
            solve(cost, beyond, align=align)


@pytest.mark.parametrize("budget", [nan, inf, -inf, 0.0, -2.0])
def test_budgets_that_are_none(budget: float) -> None:
    with pytest.raises(BudgetError, match=r"above 0, found .*; this model reaches 1.34 to 4.71 GMACs"):
        solve(DEIT_S, budget)


def test_budgets_of_small_models_have_three_digits() -> None:
    small = replace(
        DEIT_S, width=32, attention_width=32, token_macs=12 * 32**2, depth=12, stem_macs=0, head_macs=0
    )
    least, most = (gmacs(macs(small, (k,) * 3)) for k in (1, small.tokens))
    assert most < 0.1
    first, second = (solve(small, least + share * (most - least)) for share in (0.5, 0.52))
    assert printed(first.budget_gmacs) != printed(second.budget_gmacs)
    assert first.keep != second.keep
    assert within(first)
    assert within(second)
    with pytest.raises(BudgetError, match=r"budget of 0\.00400 GMACs cannot be met"):
        solve(DEIT_S, 0.004)


@pytest.mark.parametrize("align", [0, -8, 197])
def test_impossible_alignments(align: int) -> None:
    with pytest.raises(BudgetError, match=f"align: expected 1 to 196, .* found {align}"):
        solve(DEIT_S, 2.0, align=align)


def test_a_row_of_this_budget_is_taken_as_it_is() -> None:
    table = [row(2.3, (98, 50, 27)), row(2.0, (60, 40, 20))]
    plan = solve(DEIT_S, 2.0, table)
    assert (plan.keep, plan.thresholds, plan.source) == ((60, 40, 20), (0.1, 0.2, 0.3), "training")


def test_a_row_matches_by_its_printed_budget() -> None:
    assert solve(DEIT_S, 2.0, [row(2.004, (60, 40, 20))]).keep == (60, 40, 20)
    assert solve(DEIT_S, 2.0, [row(2.01, (60, 40, 20))]).keep != (60, 40, 20)


def test_a_row_over_its_budget_is_scaled_down() -> None:
    plan = solve(DEIT_S, 2.0, [row(2.0, (80, 40, 20))])
    assert plan.source == f"training, scaled down from {printed(gmacs(macs(DEIT_S, (80, 40, 20))))}"
    assert plan.thresholds is None
    assert within(plan)
    assert plan.keep[0] == pytest.approx(2 * plan.keep[1], abs=1.5)


@pytest.mark.parametrize(("budget", "direction"), [(1.8, "down"), (2.6, "up")])
def test_the_nearest_row_lends_its_profile(budget: float, direction: str) -> None:
    plan = solve(DEIT_S, budget, [row(2.3, (60, 60, 60))])
    assert len(set(plan.keep)) == 1
    assert plan.source.startswith(f"training, scaled {direction} from 2.")
    assert (plan.thresholds, within(plan)) == (None, True)


def test_scaling_that_changes_nothing_keeps_the_thresholds() -> None:
    plan = solve(DEIT_S, 2.0, [row(2.01, (70, 35, 20))])
    assert (plan.keep, plan.thresholds, plan.source) == ((70, 35, 20), (0.1, 0.2, 0.3), "training")


def test_the_order_of_the_table_does_not_matter() -> None:
    rows = [row(2.0, (60, 40, 20), "a"), row(2.4, (90, 50, 40), "b"), row(3.0, (120, 90, 60), "c")]
    for budget, source in (
        (2.0, "a"),
        (2.19, "a"),
        (2.2, "b"),
        (2.4, "b"),
        (2.69, "b"),
        (2.7, "c"),
        (4.0, "c"),
    ):
        plans = {solve(DEIT_S, budget, table) for table in permutations(rows)}
        assert len(plans) == 1
        assert plans.pop().source[0] == source


def test_of_two_rows_with_one_budget_the_later_counts() -> None:
    table = [row(2.0, (60, 40, 20)), row(2.0, (50, 50, 20), "calibration")]
    assert solve(DEIT_S, 2.0, table).source == "calibration"


def test_alignment_comes_last() -> None:
    exact = solve(DEIT_S, 2.3, [row(2.3, (98, 50, 27))], align=8)
    assert (exact.keep, exact.source, exact.thresholds) == ((96, 48, 24), "training, aligned to 8", None)
    aligned = solve(DEIT_S, 2.3, [row(2.3, (96, 48, 24))], align=8)
    assert (aligned.source, aligned.thresholds) == ("training", (0.1, 0.2, 0.3))
    scaled = solve(DEIT_S, 2.0, [row(2.3, (98, 50, 27))], align=8)
    assert scaled.source.startswith("training, scaled down from ")
    assert scaled.source.endswith(", aligned to 8")
    assert solve(DEIT_S, 2.0, align=8).source == "paper profile, scaled, aligned to 8"


def test_a_small_share_is_never_aligned_away() -> None:
    assert solve(DEIT_S, 2.3, [row(2.3, (120, 20, 3))], align=8).keep == (120, 16, 8)


@pytest.mark.parametrize("keep", [(60, 40), (60, 40, 0), (197, 40, 20)])
def test_a_table_of_another_model_is_refused(keep: tuple[int, ...]) -> None:
    for budget in (2.0, 2.3):
        with pytest.raises(ValueError, match="expected"):
            solve(DEIT_S, budget, [row(2.0, keep)])


def test_a_table_made_with_reuse_is_refused_without() -> None:
    with pytest.raises(ValueError, match="without reuse"):
        solve(WITHOUT_REUSE, 2.0, [row(2.0, (20, 40, 20))])


def test_keep_by_hand() -> None:
    plan = plan_for_keep(DEIT_S, [96, 49, 27])
    assert plan == Plan(2.26, (96, 49, 27), None, "--keep", gmacs(macs(DEIT_S, (96, 49, 27))))
    assert plan_for_keep(DEIT_S, (96, 49, 27), 2.26).budget_gmacs == 2.26


@pytest.mark.parametrize(
    ("cost", "keep", "message"),
    [
        (DEIT_S, (96, 49), "--keep: expected 3 keep counts, one per selection, found 2"),
        (DEIT_S, (96, 49, 0), "--keep: expected keep counts from 1 to 196, found 0"),
        (WITHOUT_REUSE, (49, 96, 27), "--keep: without reuse"),
    ],
)
def test_keep_by_hand_refused(cost: Cost, keep: tuple[int, ...], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        plan_for_keep(cost, keep)


@pytest.mark.parametrize(
    ("budget", "message"), [(2.0, "cost 2.26 GMACs, more than the budget of 2.00"), (nan, "above 0")]
)
def test_keep_by_hand_over_a_budget(budget: float, message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        plan_for_keep(DEIT_S, (96, 49, 27), budget)
