"""How often `bench`'s 95 % interval holds the true ratio, on rounds that resemble one another more and more.

    python benchmarks/interval_coverage.py [--trials 300]

Ratios are drawn, so the truth is known: log-normal around 1.5, each round correlated with the one before as a
machine's clocks and neighbours make it. Beside the interval stands what it would be if every round counted as
independent.
"""

from __future__ import annotations

import argparse
import math

import machine
import numpy as np
import numpy.typing as npt

from tofe_export.bench.statistics import Ratio, paired_ratio

CASES = ((40, 0.0), (100, 0.3), (200, 0.8), (400, 0.95))  # rounds, correlation
TRUTH, SPREAD, SEED = 1.5, 0.1, 0


def main() -> None:
    """Simulate, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=300)
    trials = parser.parse_args().trials
    rows = []
    for rounds, correlation in CASES:
        held, naive = coverage(rounds, correlation, trials)
        rows.append({"rounds": rounds, "correlation": correlation, "held": held, "without_division": naive})
        print(f"{rounds:4} rounds, correlation {correlation:4}: {held:.0%}, without the division {naive:.0%}")
    print("wrote", machine.write("interval_coverage", {"trials": trials, "rows": rows}))


def coverage(rounds: int, correlation: float, trials: int) -> tuple[float, float]:
    """Shares of trials in which the interval holds the truth, and in which one of shuffled rounds does."""
    random = np.random.default_rng(SEED)
    held = naive = 0
    for _ in range(trials):
        ratios = TRUTH * np.exp(SPREAD * drifting(random, rounds, correlation))
        held += holds(paired_ratio(ratios, np.ones(rounds)))
        naive += holds(paired_ratio(random.permutation(ratios), np.ones(rounds)))
    return held / trials, naive / trials


def drifting(random: np.random.Generator, rounds: int, correlation: float) -> npt.NDArray[np.float64]:
    """Normal noise, each value correlated with the one before."""
    noise = random.standard_normal(rounds)
    for i in range(1, rounds):
        noise[i] = correlation * noise[i - 1] + math.sqrt(1 - correlation**2) * noise[i]
    return noise


def holds(ratio: Ratio) -> bool:
    """Whether the interval holds the truth."""
    return ratio.low <= TRUTH <= ratio.high


if __name__ == "__main__":
    main()
