"""A pair measured with fake sessions on a fake clock, and what may be claimed of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tofe_export.bench.comparison import FASTER, SLOWER, TOO_NOISY, UNDECIDED, compare, verdict
from tofe_export.bench.pairs import Pair
from tofe_export.bench.rounds import Plan
from tofe_export.bench.statistics import Ratio
from tofe_export.bundle import Bundle
from tofe_export.errors import MissingBackend
from tofe_export.manifest import Variant

IMAGES = np.zeros((2, 3, 8, 8), np.float32)
PLAN = Plan(iterations=60, warmup=3)


@pytest.fixture
def pair(bundle: Bundle) -> Pair:
    return Pair(bundle.variant("2.00g-scatter-fp32-b1"), bundle.variant("dense-fp32-b1"))


class Opener:
    """Opens sessions with the given times per variant; the second dense one may have its own."""

    def __init__(self, make_session: Any, variant: Any, dense: Any, again: Any = None) -> None:
        self._make = make_session
        self._times = {"variant": [variant], "dense": [dense, dense if again is None else again]}
        self.opened: list[Any] = []

    def __call__(self, variant: Variant) -> Any:
        times = self._times["dense" if variant.dense else "variant"].pop(0)
        if isinstance(times, Exception):
            raise times
        self.opened.append(self._make(times))
        return self.opened[-1]


def noisy(median: float, spread: float, seed: int) -> list[float]:
    return list(median * np.exp(spread * np.random.default_rng(seed).standard_normal(500)))


def test_twice_as_fast(pair: Pair, make_session: Any, clock: Any) -> None:
    opener = Opener(make_session, noisy(0.01, 0.1, 1), noisy(0.02, 0.1, 2), noisy(0.02, 0.1, 3))
    found = compare(pair, opener, IMAGES, 1, PLAN, clock=clock)
    assert found.speedup.value == pytest.approx(2, rel=0.05)
    assert found.speedup.low < 2 < found.speedup.high
    assert found.noise.low < 1 < found.noise.high
    assert (found.verdict, found.too_noisy) == (FASTER, False)
    assert found.variant.latency.median_ms == pytest.approx(10, rel=0.05)
    assert found.variant.images_per_second == pytest.approx(1000 / found.variant.latency.median_ms)
    assert (found.clock, found.with_copies, found.variant.device_bytes) == ("perf_counter", None, None)


def test_slower_is_said_as_plainly(pair: Pair, make_session: Any, clock: Any) -> None:
    opener = Opener(make_session, noisy(0.03, 0.1, 1), noisy(0.02, 0.1, 2), noisy(0.02, 0.1, 3))
    assert compare(pair, opener, IMAGES, 1, PLAN, clock=clock).verdict == SLOWER


def test_a_small_difference_in_much_noise_is_not_claimed(pair: Pair, make_session: Any, clock: Any) -> None:
    opener = Opener(make_session, noisy(0.0198, 0.2, 1), noisy(0.02, 0.2, 2), noisy(0.02, 0.0, 3))
    found = compare(pair, opener, IMAGES, 1, Plan(iterations=200), clock=clock)
    assert found.noise.deviation < 0.03
    assert found.verdict == UNDECIDED


def test_the_same_graph_off_by_more_than_3_percent_allows_no_claim(
    pair: Pair, make_session: Any, clock: Any
) -> None:
    opener = Opener(make_session, [0.001], [0.020], [0.021])
    found = compare(pair, opener, IMAGES, 1, PLAN, clock=clock)
    assert found.speedup.value == pytest.approx(20)
    assert (found.verdict, found.too_noisy) == (TOO_NOISY, True)
    assert found.to_json()["noise"]["too_noisy"] is True


@pytest.mark.parametrize(
    ("low", "high", "noise", "expected"),
    [
        (1.001, 1.2, 1.0, FASTER),
        (1.001, 1.2, 1.002, UNDECIDED),  # the same graph shows as much from nothing
        (1.001, 1.2, 1 / 1.002, UNDECIDED),
        (0.999, 1.2, 1.0, UNDECIDED),
        (1.0, 1.0, 1.0, UNDECIDED),
        (0.8, 0.999, 1.0, SLOWER),
        (0.8, 0.999, 1.002, UNDECIDED),
        (1.5, 1.6, 1.029, FASTER),
        (1.5, 1.6, 1.031, TOO_NOISY),
        (1.5, 1.6, 1 / 1.031, TOO_NOISY),
        (0.0, float("inf"), 1.0, UNDECIDED),
    ],
)
def test_the_verdict(low: float, high: float, noise: float, expected: str) -> None:
    assert verdict(Ratio(1.1, low, high, 50, 50), Ratio(noise, 0.9, 1.1, 50, 50)) == expected


def test_rounds_of_several_openings_count_together(pair: Pair, make_session: Any, clock: Any) -> None:
    """Memory that lies well or badly for as long as a session is open."""
    variant, dense = iter((0.010, 0.008, 0.0125)), iter([0.020] * 6)
    told: list[int] = []

    def open_side(side: Variant) -> Any:
        return make_session([next(dense if side.dense else variant)])

    plan = Plan(iterations=21, warmup=0, openings=3)
    found = compare(pair, open_side, IMAGES, 1, plan, clock=clock, on_round=told.append)
    assert told == list(range(1, 22))
    assert found.variant.latency.runs == 21
    assert found.speedup.value == pytest.approx(2.0)
    assert found.speedup.low <= 1.61  # 0.020 / 0.0125: the interval knows of the worst opening
    assert found.speedup.high >= 2.49
    assert next(variant, None) is None


def test_sessions_are_closed_also_when_one_cannot_be_opened(
    pair: Pair, make_session: Any, clock: Any
) -> None:
    opener = Opener(make_session, [0.01], [0.02])
    compare(pair, opener, IMAGES, 1, PLAN, clock=clock)
    assert [session.closed for session in opener.opened] == [True] * 3
    assert {session.runs for session in opener.opened} == {1 + PLAN.warmup + 60}
    failing = Opener(make_session, [0.01], [0.02], MissingBackend("no memory"))
    with pytest.raises(MissingBackend, match="no memory"):
        compare(pair, failing, IMAGES, 1, PLAN, clock=clock)
    assert [session.closed for session in failing.opened] == [True, True]


def test_device_memory_is_what_each_side_took(pair: Pair, make_session: Any, clock: Any) -> None:
    free = iter([100, 90, 90, 60, 60, 30])
    opener = Opener(make_session, [0.01], [0.02])
    found = compare(pair, opener, IMAGES, 1, PLAN, free_memory=lambda: next(free), clock=clock)
    assert (found.variant.device_bytes, found.against.device_bytes) == (10, 30)


def test_the_json_says_what_was_compared(pair: Pair, make_session: Any, clock: Any) -> None:
    opener = Opener(make_session, [0.010], [0.020])
    found = compare(pair, opener, IMAGES, 1, PLAN, clock=clock)
    data = json.loads(json.dumps(found.to_json()))
    assert set(data) == {
        *("variant", "against", "batch", "clock", "speedup", "speedup_with_copies", "mac_ratio"),
        *("noise", "verdict", "alone"),
    }
    assert data["variant"]["name"] == "2.00g-scatter-fp32-b1"
    assert data["variant"]["sha256"] == pair.variant.sha256
    assert data["variant"]["latency"]["median_ms"] == pytest.approx(10)
    assert data["against"]["latency"]["p99_ms"] is None
    assert data["speedup"]["value"] == pytest.approx(2)
    assert (data["mac_ratio"], data["verdict"], data["alone"]) == (1.0, FASTER, None)
