"""What is advised of figures that are made up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tofe_export.errors import BudgetError
from tofe_export.latency.advise import DENSE, REDUCED, UNKNOWN, advise
from tofe_export.latency.predict import Predictor
from tofe_export.latency.table import Entry

MakeEntry = Callable[..., Entry]


def test_budgets_are_predicted(entry: Entry) -> None:
    (row,) = advise(entry, [2.0]).rows
    assert (row.budget_gmacs, row.keep) == (2.0, (70, 35, 20))
    assert row.ms == pytest.approx(Predictor(entry).ms((70, 35, 20)))
    assert row.speedup == pytest.approx(50 / (row.ms or 0))
    assert row.gmacs_executed == pytest.approx(2.0, abs=0.02)
    assert row.mac_ratio == pytest.approx(4.6 / row.gmacs_executed, rel=0.01)
    assert row.worth is True


def test_usual_budgets_where_none_is_named(entry: Entry) -> None:
    assert [row.budget_gmacs for row in advise(entry).rows] == [3.9, 3.2, 2.5, 2.1, 1.6]


def test_milliseconds_say_which_budget_to_train_for(entry: Entry) -> None:
    (row,) = advise(entry, budgets_ms=[22.0]).rows
    assert row.ms is not None
    assert 21.8 < row.ms <= 22.0
    assert 1.6 < row.budget_gmacs < 2.5


def test_it_pays(entry: Entry) -> None:
    advice = advise(entry)
    assert advice.ship == REDUCED
    assert advice.text.startswith("token reduction pays here: from 1.")
    assert "at 1.60 GMACs" in advice.text
    assert "largest budget that meets your target" in advice.text


def test_it_pays_for_one_budget_only(entry: Entry) -> None:
    text = advise(entry, [2.0]).text
    assert text.startswith("token reduction pays here: 2.22 times")
    assert text.endswith("times as fast at 2.00 GMACs.")


def test_budgets_under_5_percent_are_named(make_entry: MakeEntry) -> None:
    advice = advise(make_entry(lambda k: 0.6 + 0.0036 * k), [3.9, 1.6])
    assert [row.worth for row in advice.rows] == [False, True]
    assert advice.ship == REDUCED


@pytest.mark.parametrize("least", [0.97, 1.1])
def test_ship_dense(make_entry: MakeEntry, least: float) -> None:
    advice = advise(make_entry(lambda k: least + 0.0005 * k))
    assert advice.ship == DENSE
    assert not any(row.worth for row in advice.rows)
    assert advice.text.startswith("ship dense: the best of these budgets, 1.60 GMACs")


def test_a_gain_of_just_5_percent_is_one(make_entry: MakeEntry) -> None:
    flat = make_entry(lambda k: 1 / 1.0501)
    assert advise(flat, [2.0]).ship == REDUCED
    assert advise(make_entry(lambda k: 1 / 1.0499), [2.0]).ship == DENSE


def test_noise_allows_no_advice(make_entry: MakeEntry) -> None:
    advice = advise(make_entry(noise=0.04))
    assert advice.ship == UNKNOWN
    assert "differed from itself by 4.0%" in advice.text
    assert advise(make_entry(noise=0.03)).ship == REDUCED


def test_beyond_the_table_nothing_is_predicted(make_entry: MakeEntry) -> None:
    short = make_entry(counts=(24, 49, 98))
    advice = advise(short, [2.0, 2.3])
    assert [(row.ms, row.speedup, row.worth) for row in advice.rows] == [(None, None, None)] * 2
    assert advice.ship == UNKNOWN
    assert advice.text == "no recommendation: the table reaches none of these budgets."


def test_budgets_that_cannot_be(entry: Entry) -> None:
    with pytest.raises(BudgetError, match=r"budget of 9\.00 GMACs cannot be met"):
        advise(entry, [9.0])
    with pytest.raises(BudgetError, match=r"below 50\.00 ms \(dense\)"):
        advise(entry, budgets_ms=[60.0])


def test_for_machines(entry: Entry) -> None:
    data = advise(entry, [2.0]).to_json()
    assert data["ship"] == REDUCED
    assert data["dense_gmacs"] == pytest.approx(4.6, abs=0.01)
    assert data["rows"][0]["keep"] == (70, 35, 20)
    assert data["rows"][0]["worth"] is True
