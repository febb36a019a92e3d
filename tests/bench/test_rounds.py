"""Rounds: everyone once, in drawn orders, until there is enough."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from tofe_export.bench.rounds import ROUNDS_AT_LEAST, Plan, Sample, measure
from tofe_export.errors import UsageError


def recorded(plan: Plan, clock: Any, cost: float = 0.1) -> tuple[list[tuple[str, int]], dict[str, Any]]:
    calls: list[tuple[str, int]] = []

    def run(name: str, number: int) -> Sample:
        calls.append((name, number))
        clock.now += cost
        return Sample(cost)

    runs = {name: lambda number, name=name: run(name, number) for name in "abc"}
    return calls, measure(runs, plan, clock)


def test_everyone_runs_once_per_round_and_the_warm_up_does_not_count(clock: Any) -> None:
    calls, found = recorded(Plan(iterations=8, warmup=2), clock)
    assert len(calls) == 3 * (2 + 8)
    for start in range(0, len(calls), 3):
        assert {name for name, _ in calls[start : start + 3]} == {"a", "b", "c"}
    assert [number for name, number in calls if name == "a"] == [0, 1, *range(8)]
    assert {name: len(series.seconds) for name, series in found.items()} == {"a": 8, "b": 8, "c": 8}


def test_orders_are_drawn_but_the_same_each_time(clock: Any) -> None:
    calls, _ = recorded(Plan(iterations=50), clock)
    again, _ = recorded(Plan(iterations=50), clock)
    other, _ = recorded(Plan(iterations=50, seed=1), clock)
    assert calls == again != other
    orders = {tuple(name for name, _ in calls[i : i + 3]) for i in range(0, len(calls), 3)}
    assert len(orders) == 6


def test_seconds_end_the_measuring(clock: Any) -> None:
    _, found = recorded(Plan(seconds=12, warmup=1), clock, cost=0.125)
    assert len(found["a"].seconds) == 32


def test_there_are_rounds_enough_however_slow_they_are(clock: Any) -> None:
    _, found = recorded(Plan(seconds=1), clock, cost=10)
    assert len(found["a"].seconds) == ROUNDS_AT_LEAST


def test_iterations_that_cannot_give_an_interval() -> None:
    with pytest.raises(UsageError, match="at least 6 iterations, found 5"):
        Plan(iterations=5)


def test_openings_share_out_rounds_seconds_and_warm_up() -> None:
    parts = Plan(iterations=20, warmup=10, openings=3).parts()
    assert [part.iterations for part in parts] == [6, 7, 7]
    assert [part.warmup for part in parts] == [4, 4, 4]
    assert len({part.seed for part in parts}) == 3
    timed = Plan(seconds=12, openings=3).parts()
    assert [(part.seconds, part.iterations, part.least) for part in timed] == [(4.0, None, 7)] * 3
    assert {part.openings for part in (*parts, *timed)} == {1}


def test_an_opening_has_rounds_enough_for_an_interval() -> None:
    assert [part.iterations for part in Plan(iterations=12, openings=3).parts()] == [6, 6]
    assert [part.iterations for part in Plan(iterations=6, openings=3).parts()] == [6]
    assert Plan(iterations=60, warmup=3).parts() == [Plan(iterations=60, warmup=3)]


def test_progress_is_told(clock: Any) -> None:
    done: list[int] = []
    measure({"a": lambda number: Sample(1.0)}, Plan(iterations=6, warmup=3), clock, done.append)
    assert done == [1, 2, 3, 4, 5, 6]


def test_copies_are_kept_only_if_all_runs_have_them(clock: Any) -> None:
    runs = {"all": lambda number: Sample(1.0, 2.0), "none": lambda number: Sample(1.0)}
    found = measure(runs, Plan(iterations=6), clock)
    assert found["all"].with_copies is not None
    assert list(found["all"].with_copies) == [2.0] * 6
    assert found["none"].with_copies is None


def test_the_garbage_collector_waits_outside(clock: Any) -> None:
    seen: list[bool] = []

    def run(number: int) -> Sample:
        seen.append(gc.isenabled())
        if number == 5:
            raise RuntimeError("stop")
        return Sample(1.0)

    with pytest.raises(RuntimeError, match="stop"):
        measure({"a": run}, Plan(iterations=9, warmup=0), clock)
    assert not any(seen)
    assert gc.isenabled()
