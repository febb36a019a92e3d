"""Summaries and intervals, against samples whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tofe_export.bench.statistics import LEAST_ROUNDS, Ratio, Summary, independent_rounds, paired_ratio
from tofe_export.errors import InputError


def test_a_summary_of_a_known_sample() -> None:
    summary = Summary.of(np.arange(101, dtype=np.float64) / 1e3)
    assert summary.runs == 101
    assert summary.least_ms == 0
    found = (summary.median_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms)
    assert found == pytest.approx((50, 90, 95, 99))


@pytest.mark.parametrize(
    ("runs", "known"),
    [(9, ""), (10, "p90"), (19, "p90"), (20, "p90 p95"), (99, "p90 p95"), (100, "p90 p95 p99")],
)
def test_a_percentile_that_no_run_lies_above_is_unknown(runs: int, known: str) -> None:
    summary = Summary.of(np.linspace(1, 2, runs))
    found = [name for name in ("p90", "p95", "p99") if getattr(summary, f"{name}_ms") is not None]
    assert " ".join(found) == known


def test_the_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians() -> None:
    reference = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 70.0])
    candidate = np.array([1.0, 1.0, 1.0, 4.0, 5.0, 6.0, 1.0])
    ratio = paired_ratio(reference, candidate)
    assert (ratio.value, ratio.rounds) == (1.0, 7)
    assert np.median(reference) / np.median(candidate) == 4.0


@pytest.mark.parametrize(("rounds", "low", "high"), [(6, 1, 6), (10, 2, 9), (20, 6, 15), (50, 18, 33)])
def test_the_ranks_of_independent_rounds(rounds: int, low: int, high: int) -> None:
    """The ranks of the sign test, as tables of it list them."""
    values = np.arange(1, rounds + 1, dtype=np.float64)
    alternating = np.empty(rounds)
    alternating[0::2], alternating[1::2] = values[: (rounds + 1) // 2], values[(rounds + 1) // 2 :]
    ratio = paired_ratio(alternating, np.ones(rounds))
    assert (ratio.low, ratio.high, ratio.independent) == (low, high, rounds)


def test_many_rounds_continue_the_exact_ranks() -> None:
    shuffled = np.random.default_rng(1).permutation(np.arange(1, 1002, dtype=np.float64))
    ratio = paired_ratio(shuffled, np.ones(1001))
    expected = 1001 / 2 - 0.98 * math.sqrt(ratio.independent) * 1001 / ratio.independent
    assert ratio.low == pytest.approx(expected, abs=3)
    assert ratio.low + ratio.high == pytest.approx(1002)


def test_too_few_rounds_leave_the_interval_open() -> None:
    ratio = paired_ratio(np.arange(1.0, LEAST_ROUNDS), np.ones(LEAST_ROUNDS - 1))
    assert (ratio.low, ratio.high) == (0, math.inf)


def coverage(correlation: float, rounds: int, trials: int = 500) -> tuple[float, float]:
    """Shares of trials whose interval, and whose interval for independent rounds, hold the true median."""
    random = np.random.default_rng(7)
    held = naive = 0
    for _ in range(trials):
        noise = random.standard_normal(rounds)
        for i in range(1, rounds):
            noise[i] = correlation * noise[i - 1] + math.sqrt(1 - correlation**2) * noise[i]
        ratios = 1.5 * np.exp(0.1 * noise)  # skewed, true median 1.5
        ratio = paired_ratio(ratios, np.ones(rounds))
        alone = paired_ratio(random.permutation(ratios), np.ones(rounds))
        held += ratio.low <= 1.5 <= ratio.high
        naive += alone.low <= 1.5 <= alone.high
    return held / trials, naive / trials


def test_the_interval_of_independent_rounds_holds_the_truth() -> None:
    held, _ = coverage(0.0, 40)
    assert held >= 0.95


def test_the_interval_of_drifting_rounds_holds_it_too() -> None:
    held, naive = coverage(0.8, 200)
    assert held >= 0.90
    assert naive < 0.65  # what an interval for independent rounds would have promised as 95 %


def test_a_wave_counts_as_few_rounds_and_chance_as_many() -> None:
    wave = np.sin(np.arange(400) / 25)
    assert independent_rounds(wave) < 20
    assert independent_rounds(np.random.default_rng(3).standard_normal(400)) > 250
    assert independent_rounds(np.ones(30)) == 30


def test_the_deviation_is_the_same_in_both_directions() -> None:
    assert Ratio(1.04, 0, 1, 9, 9).deviation == pytest.approx(0.04)
    assert Ratio(1 / 1.04, 0, 1, 9, 9).deviation == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("reference", "candidate", "message"),
    [([1.0, 2.0], [1.0], "found 2 and 1"), ([], [], "found 0 and 0"), ([1.0, 0.0], [1.0, 1.0], "too short")],
)
def test_what_is_no_pair_of_times(reference: list[float], candidate: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        paired_ratio(np.array(reference), np.array(candidate))
