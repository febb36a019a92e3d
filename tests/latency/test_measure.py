"""Measuring a ladder, with sessions that are made up and a clock that only they move."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError
from tofe_export.latency.measure import Bench, Length
from tofe_export.latency.rungs import rungs_of

IMAGES = np.zeros((2, 3, 8, 8), np.float32)
SECONDS = {
    "dense-fp32-b1": 0.010,
    "k1-scatter-fp32-b1": 0.004,
    "k2-scatter-fp32-b1": 0.006,
    "k4-scatter-fp32-b1": 0.011,
}


def bench(ladder: Bundle, runtime: Any, **changes: Any) -> Bench:
    return Bench(ladder, runtime, IMAGES, lambda variant: 1, clock=runtime.clock, **changes)


def test_shares_and_milliseconds(ladder: Bundle, fake_runtime: Any) -> None:
    (rungs,) = rungs_of(ladder, ladder.manifest.variants)
    entry = bench(ladder, fake_runtime(SECONDS)).entry(rungs)
    assert [(step.keep, round(step.share, 6)) for step in entry.steps] == [(1, 0.4), (2, 0.6), (4, 1.1)]
    assert entry.dense_ms == pytest.approx(10.0)
    assert entry.noise == pytest.approx(0.0)
    assert entry.key == ((8, 8), "scatter", "fp32", 1)
    assert (entry.heads, entry.cost) == (2, ladder.manifest.cost)


def test_two_sessions_at_a_time_and_none_left(ladder: Bundle, fake_runtime: Any) -> None:
    (rungs,) = rungs_of(ladder, ladder.manifest.variants)
    runtime = fake_runtime(SECONDS)
    bench(ladder, runtime).entry(rungs)
    assert (runtime.most, runtime.opened) == (2, [])


def test_sessions_are_closed_where_one_does_not_open(ladder: Bundle, fake_runtime: Any) -> None:
    (rungs,) = rungs_of(ladder, ladder.manifest.variants)
    runtime = fake_runtime({name: SECONDS[name] for name in list(SECONDS)[:2]})
    with pytest.raises(KeyError, match="k2-scatter"):
        bench(ladder, runtime).entry(rungs)
    assert runtime.opened == []


def test_every_rung_is_told(ladder: Bundle, fake_runtime: Any) -> None:
    (rungs,) = rungs_of(ladder, ladder.manifest.variants)
    told: list[str] = []
    bench(ladder, fake_runtime(SECONDS), say=told.append, length=Length(iterations=6)).entry(rungs)
    assert told == list(SECONDS)


@pytest.mark.parametrize(
    ("length", "round_seconds", "rounds"),
    [
        (Length(), 0.1, 20),
        (Length(), 5.0, 8),
        (Length(), 0.001, 60),
        (Length(seconds=6), 0.1, 60),
        (Length(iterations=100), 0.1, 100),
    ],
)
def test_how_many_rounds(length: Length, round_seconds: float, rounds: int) -> None:
    assert length.plan(round_seconds).iterations == rounds


def test_too_few_rounds_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 6 iterations"):
        Length(iterations=5).plan(0.1)
