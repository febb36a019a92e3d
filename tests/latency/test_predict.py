"""Predictions from equal counts: exact where the truth is what they assume, refused beyond the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from tofe_export.budget import Cost, macs_executed
from tofe_export.errors import BudgetError
from tofe_export.latency.predict import OutsideTable, Predictor, rising
from tofe_export.latency.table import Entry

MakeEntry = Callable[..., Entry]


def test_equal_counts_are_what_was_measured(entry: Entry) -> None:
    predictor = Predictor(entry)
    for step in entry.steps:
        assert predictor.share((step.keep,) * 3) == pytest.approx(step.share, abs=1e-12)
    assert predictor.ms((98, 98, 98)) == pytest.approx(50 * (0.3 + 0.0036 * 98))


def test_between_measured_counts_it_is_a_line(entry: Entry) -> None:
    assert Predictor(entry).share((73, 73, 73)) == pytest.approx(0.3 + 0.0036 * 73)


@pytest.mark.parametrize("keep", [(70, 35, 20), (20, 35, 70), (196, 6, 100)])
def test_a_machine_that_only_counts_macs_is_predicted_exactly(
    make_entry: MakeEntry, cost: Cost, keep: tuple[int, ...]
) -> None:
    dense = macs_executed(cost, (), "dense")
    every = tuple(range(6, 197))
    entry = make_entry(lambda k: macs_executed(cost, (k, k, k), "scatter") / dense, every)
    assert Predictor(entry).share(keep) == pytest.approx(macs_executed(cost, keep, "scatter") / dense)


@pytest.mark.parametrize("lowering", ["scatter", "concat"])
@pytest.mark.parametrize("reuse", [True, False])
def test_parts_of_the_stages_add_up(make_entry: MakeEntry, cost: Cost, lowering: str, reuse: bool) -> None:
    """Equal blocks in each stage: a third of what K tokens cost; less in the last for the CLS row alone."""
    for last_rows in (0, 1):
        entry = make_entry(lowering=lowering, cost=replace(cost, reuse=reuse, last_rows=last_rows))
        share = Predictor(entry).share
        gains = [share((98,) * s + (6,) * (3 - s)) for s in range(4)]
        parts = [b - a for a, b in pairwise(gains)]
        assert sum(parts) == pytest.approx(0.0036 * 92)
        assert parts[0] == pytest.approx(0.0036 * 92 / 3, rel=0.2)
        assert (parts[2] < 0.9 * parts[0]) == bool(last_rows) or not reuse


def test_more_tokens_are_never_faster(make_entry: MakeEntry) -> None:
    noisy = make_entry(lambda k: 0.3 + 0.0036 * k + (0.1 if k in (12, 98) else 0))
    shares = [Predictor(noisy).share((k, k, k)) for k in range(6, 197)]
    assert all(a <= b for a, b in pairwise(shares))


def test_rising_pools_what_falls() -> None:
    assert rising([1, 3, 2, 4]) == [1, 2.5, 2.5, 4]
    assert rising([3, 2, 1]) == [2, 2, 2]
    assert rising([1, 2, 2, 3]) == [1, 2, 2, 3]
    assert rising([2, 1, 4, 0]) == [1.5, 1.5, 2, 2]


@pytest.mark.parametrize("keep", [(70, 35, 5), (5, 5, 5)])
def test_nothing_is_predicted_beyond_the_table(entry: Entry, keep: tuple[int, ...]) -> None:
    with pytest.raises(OutsideTable, match=r"holds 6 to 196 kept tokens .*these counts have 5"):
        Predictor(entry).share(keep)


def test_a_short_table_says_where_it_ends(make_entry: MakeEntry) -> None:
    predictor = Predictor(make_entry(counts=(24, 49, 98)))
    assert (predictor.least, predictor.most) == (24, 98)
    with pytest.raises(OutsideTable, match="these counts have 120, 20"):
        predictor.share((120, 60, 20))


@pytest.mark.parametrize("keep", [(70, 35), (0, 35, 20), (197, 1, 1)])
def test_counts_that_cannot_be(entry: Entry, keep: tuple[int, ...]) -> None:
    with pytest.raises(BudgetError, match="keep counts: expected"):
        Predictor(entry).share(keep)
