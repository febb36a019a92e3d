"""All sides in turn, one run each per round, in an order that is drawn anew for every round.

Whatever runs first in a fixed order finds other caches, clocks and temperatures than what runs second; drawn
orders (from a fixed seed) turn that into noise that the interval sees. Python's garbage collector waits
outside.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from typing import NamedTuple

import numpy as np

from tofe_export.bench.statistics import LEAST_ROUNDS, Times
from tofe_export.errors import UsageError

SEED = 0
ROUNDS_AT_LEAST = 20  # whatever `seconds` says

Clock = Callable[[], float]  # seconds


class Sample(NamedTuple):
    """The time of one run in seconds; `with_copies` where the device's time does not hold the copies."""

    seconds: float
    with_copies: float | None = None


Run = Callable[[int], Sample]  # the round's number picks the input


@dataclass(frozen=True)
class Plan:
    """How long to measure: a number of rounds, or seconds of all sides together. Raises UsageError."""

    seconds: float = 10.0
    iterations: int | None = None
    warmup: int = 10  # rounds that are not counted
    seed: int = SEED
    openings: int = 1
    """Of all sessions, among which the rounds are shared out: where memory happens to lie counts too."""
    least: int = ROUNDS_AT_LEAST
    """Rounds, whatever `seconds` says."""

    def __post_init__(self) -> None:
        if self.iterations is not None and self.iterations < LEAST_ROUNDS:
            raise UsageError(
                f"expected at least {LEAST_ROUNDS} iterations, found {self.iterations}: fewer cannot give a "
                "95 % interval"
            )

    def parts(self) -> list[Plan]:
        """A plan per opening; fewer openings where each would have too few rounds for an interval."""
        iterations: list[int | None] = [None] * self.openings
        count = self.openings
        if self.iterations is not None:
            count = max(1, min(self.openings, self.iterations // LEAST_ROUNDS))
            ends = [self.iterations * number // count for number in range(count + 1)]
            iterations = [end - start for start, end in pairwise(ends)]
        return [
            replace(
                self,
                seconds=self.seconds / count,
                iterations=some,
                warmup=ceil(self.warmup / count),
                seed=self.seed + number,
                openings=1,
                least=ceil(self.least / count),
            )
            for number, some in enumerate(iterations)
        ]

    def enough(self, rounds: int, elapsed: float) -> bool:
        """Whether to stop after that many rounds and seconds."""
        if self.iterations is not None:
            return rounds >= self.iterations
        return rounds >= self.least and elapsed >= self.seconds


@dataclass(frozen=True)
class Series:
    """One side's runs, in the order of the rounds."""

    seconds: Times
    with_copies: Times | None

    @classmethod
    def joined(cls, parts: Sequence[Series]) -> Series:
        """The rounds of several openings; copies are told apart only where each opening did so."""
        copies = [part.with_copies for part in parts if part.with_copies is not None]
        together = np.concatenate(copies) if len(copies) == len(parts) else None
        return cls(np.concatenate([part.seconds for part in parts]), together)


def measure(
    runs: Mapping[str, Run],
    plan: Plan,
    clock: Clock = time.perf_counter,
    on_round: Callable[[int], None] = lambda done: None,
) -> dict[str, Series]:
    """Warm up, then run rounds until there are enough; `on_round` is told how many are done."""
    order = np.random.default_rng(plan.seed)
    names = list(runs)
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    with _no_collection():
        for number in range(plan.warmup):
            for name in order.permutation(names):
                runs[name](number)
        started, done = clock(), 0
        while not plan.enough(done, clock() - started):
            for name in order.permutation(names):
                samples[name].append(runs[name](done))
            done += 1
            on_round(done)
    return {name: _series(found) for name, found in samples.items()}


def _series(samples: list[Sample]) -> Series:
    copies = [sample.with_copies for sample in samples if sample.with_copies is not None]
    return Series(
        np.array([sample.seconds for sample in samples], np.float64),
        np.array(copies, np.float64) if len(copies) == len(samples) else None,
    )


@contextmanager
def _no_collection() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
