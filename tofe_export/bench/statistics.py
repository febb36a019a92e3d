"""Medians, percentiles, and the ratio of paired times with an interval that may be believed.

Times on a shared machine have long tails and drift together, so nothing here assumes a shape. Each round
gives one ratio of two neighbouring runs, which cancels what is slow for both; the median of these ratios is
the figure. Its 95 % interval lies between two of the sorted ratios: the number of ratios below the true
median is binomial, whatever their distribution, so the ranks follow from n alone, without resampling.

That is exact for independent rounds. Rounds beside one another are not quite (clocks, caches, a neighbour
that comes and goes), so n is first divided by the autocorrelation time of the signs "above or below the
median", summed up to the first lag that is not positive. Slow waves then widen the interval instead of
hiding in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tofe_export.errors import InputError

LEAST_ROUNDS = 6  # below, no two of the sorted ratios enclose the median with 95 %
_EXACT_UP_TO = 1000  # rounds; beyond, the normal distribution gives the same ranks
_NORMAL_975 = 1.959964

Times = npt.NDArray[np.float64]  # seconds


@dataclass(frozen=True)
class Summary:
    """How one side's runs are spread, in milliseconds; a percentile is None where too few runs reach it."""

    runs: int
    median_ms: float
    p90_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    least_ms: float

    @classmethod
    def of(cls, seconds: Times) -> Summary:
        """Summarise at least one run."""
        times = np.asarray(seconds, np.float64) * 1e3
        return cls(
            runs=len(times),
            median_ms=float(np.median(times)),
            p90_ms=_percentile(times, 90),
            p95_ms=_percentile(times, 95),
            p99_ms=_percentile(times, 99),
            least_ms=float(times.min()),
        )


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the second side is, and the 95 % interval; (0, inf) after too few rounds."""

    value: float
    low: float
    high: float
    rounds: int
    independent: int  # as many independent rounds would tell as much

    @property
    def deviation(self) -> float:
        """How far from 1, in whichever direction: 0.03 for 1.03 and for 1 / 1.03."""
        return max(self.value, 1 / self.value) - 1


def paired_ratio(reference: Times, candidate: Times) -> Ratio:
    """The median of reference[i] / candidate[i], with its interval; above 1 the candidate is faster.

    Both are seconds, one per round. Raises InputError unless they are as many, at least one, and positive.
    """
    if len(reference) != len(candidate) or len(reference) == 0:
        raise InputError(f"expected pairs of times, found {len(reference)} and {len(candidate)}")
    if min(reference.min(), candidate.min()) <= 0:
        raise InputError("expected times above 0: a run is too short for this clock. Use a larger batch")
    ratios = np.sort(reference / candidate)
    independent = independent_rounds(reference / candidate)
    low, high = 0.0, math.inf
    if rank := _rank(independent):
        place = rank * len(ratios) // independent  # the same quantile among all ratios, rounded outwards
        low, high = float(ratios[place - 1]), float(ratios[-place])
    return Ratio(float(np.median(ratios)), low, high, len(ratios), independent)


def independent_rounds(values: Times) -> int:
    """How many independent values tell as much about the median as these, in their order; 1 to n."""
    signs = np.sign(values - np.median(values))
    power = float(signs @ signs)
    if power == 0:
        return len(values)
    time = 1.0
    for lag in range(1, len(signs)):
        correlation = float(signs[:-lag] @ signs[lag:]) / power
        if correlation <= 0:
            break
        time += 2 * correlation
    return max(1, int(len(values) / time))


@lru_cache
def _rank(count: int) -> int:
    """The k for which the k-th smallest and k-th largest of `count` enclose the median with 95 %; 0: none."""
    if count > _EXACT_UP_TO:
        return int((count - _NORMAL_975 * math.sqrt(count)) / 2)
    below, rank = 1, 0  # ways to have at most `rank` values below the median, out of 2 ** count
    while 40 * below <= 2**count:  # 2.5 % on each side
        rank += 1
        below += math.comb(count, rank)
    return rank


def _percentile(times: Times, percent: int) -> float | None:
    reached = len(times) * (100 - percent) >= 100  # at least one run lies above
    return float(np.percentile(times, percent)) if reached else None
