"""The search over profiles: it finds what a brute force finds, asks seldom, and never leaves the budget."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest
from known_costs import SMALL as COST

from tofe_export.budget import gmacs, macs
from tofe_export.calibration.search import MOST, search
from tofe_export.calibration.targets import Keep
from tofe_export.keep import fill_budget

BUDGET = 0.003
STARTS = [("even", (1.0, 1.0, 1.0)), ("halving", (4.0, 2.0, 1.0))]


def within(profile: Sequence[int]) -> Keep:
    return fill_budget(COST, profile, BUDGET)


class Bowl:
    """A loss with one minimum, at the shares `best`; counts how often it is asked."""

    def __init__(self, best: Sequence[float]) -> None:
        self.best, self.asked = best, 0

    def loss(self, keep: Keep) -> float:
        return sum((count - wanted) ** 2 for count, wanted in zip(keep, self.best, strict=True))

    def __call__(self, plans: Sequence[Keep]) -> list[float]:
        self.asked += len(plans)
        assert len(set(plans)) == len(plans)
        return [self.loss(keep) for keep in plans]


@pytest.mark.parametrize("shares", [(49, 25, 14), (10, 30, 12), (20, 20, 20), (45, 8, 3)])
def test_it_comes_near_the_best_of_all(shares: Sequence[int]) -> None:
    bowl = Bowl(fill_budget(COST, shares, BUDGET))
    found = search(within, bowl, STARTS)
    affordable = [
        keep for keep in product(range(1, 65), repeat=3) if gmacs(macs(COST, keep)) < BUDGET + 0.000005
    ]
    losses = sorted(bowl.loss(keep) for keep in affordable)
    start = min(bowl.loss(within([100, 100, 100])), bowl.loss(within([400, 200, 100])))
    assert found[0].loss == min(scored.loss for scored in found)
    assert found[0].loss <= losses[0] + 0.05 * (start - losses[0]) + 3  # grid steps of a token or two
    assert bowl.asked == len(found) <= MOST
    assert all(gmacs(macs(COST, scored.keep)) < BUDGET + 0.000005 for scored in found)


def test_the_best_start_wins_where_nothing_is_better() -> None:
    best = within([400, 200, 100])
    found = search(within, Bowl(best), STARTS)
    assert found[0] == (best, 0.0, "halving")
    assert {scored.origin for scored in found} == {"even", "halving", "search"}


def test_equal_losses_keep_the_first() -> None:
    found = search(within, lambda plans: [1.0] * len(plans), STARTS)
    assert found[0].origin == "even"


def test_a_loss_that_is_infinite_is_never_chosen() -> None:
    even = within([1, 1, 1])
    measure = lambda plans: [float("inf") if keep == even else 1.0 for keep in plans]  # noqa: E731
    assert search(within, measure, STARTS)[0].keep != even


def test_without_reuse_counts_never_increase() -> None:
    found = search(within, Bowl((5, 40, 40)), [("rising", (1.0, 2.0, 4.0))], reuse=False)
    assert all(a >= b >= c for a, b, c in (scored.keep for scored in found))


def test_it_is_deterministic() -> None:
    runs = [search(within, Bowl((30, 22, 9)), STARTS) for _ in range(2)]
    assert runs[0] == runs[1]
