"""One pair measured: the figures of both sides, their ratio, and what may be claimed of it.

Three sessions take turns: the variant, what it is compared with, and that one a second time. The last two are
the same graph, so their ratio shows what this machine can tell apart at all (the A/A pair). When it is off by
more than 3 %, no claim is made. "Faster" means that the whole interval lies above 1, and above what the A/A
pair shows from nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from tofe_export.bench.pairs import Pair
from tofe_export.bench.rounds import Clock, Plan, Series, measure
from tofe_export.bench.sides import Opener, feeds_of
from tofe_export.bench.statistics import Ratio, Summary, paired_ratio
from tofe_export.bench.timing import Feeds, Timer, timer_of
from tofe_export.manifest import Variant
from tofe_export.runtime.session import Array, Session

NOISE_LIMIT = 0.03
FASTER, SLOWER = "faster", "slower"
UNDECIDED, TOO_NOISY = "no difference shown", "too noisy"

Facts = dict[str, Any]
Side = tuple[Session, Sequence[Feeds]]
"""What runs, and what it is fed."""


@dataclass(frozen=True)
class Figures:
    """One side's times. `device_bytes`: what the GPU's free memory lost to it (None on a processor)."""

    latency: Summary
    with_copies: Summary | None
    images_per_second: float
    device_bytes: int | None


@dataclass(frozen=True)
class Measured:
    """What three sides in turns gave: a candidate, a reference, and the reference again."""

    clock: str
    variant: Figures
    against: Figures
    speedup: Ratio
    with_copies: Ratio | None
    noise: Ratio


@dataclass(frozen=True)
class Comparison:
    """What was measured of a pair; `alone` is filled by `alone.measure_alone`."""

    pair: Pair
    batch: int
    clock: str
    variant: Figures
    against: Figures
    speedup: Ratio
    with_copies: Ratio | None
    noise: Ratio
    alone: Facts | None = None

    @property
    def too_noisy(self) -> bool:
        """Whether the same graph differs from itself by more than the limit."""
        return self.noise.deviation > NOISE_LIMIT

    @property
    def reference(self) -> str:
        """The name of what it is compared with."""
        return self.pair.against.name

    @property
    def verdict(self) -> str:
        """FASTER, SLOWER, UNDECIDED or TOO_NOISY."""
        return verdict(self.speedup, self.noise)

    def to_json(self) -> Facts:
        """The comparison for machines, see docs/bench.md."""
        return {
            "variant": variant_json(self.pair.variant) | asdict(self.variant),
            "against": variant_json(self.pair.against) | asdict(self.against),
            "batch": self.batch,
            "clock": self.clock,
            "speedup": asdict(self.speedup),
            "speedup_with_copies": asdict(self.with_copies) if self.with_copies else None,
            "mac_ratio": self.pair.mac_ratio,
            "noise": noise_json(self.noise),
            "verdict": self.verdict,
            "alone": self.alone,
        }


def verdict(speedup: Ratio, noise: Ratio) -> str:
    """What may be claimed of a ratio, given the ratio of a graph to itself."""
    if noise.deviation > NOISE_LIMIT:
        return TOO_NOISY
    beyond = 1 + noise.deviation
    if speedup.low > beyond:
        return FASTER
    return SLOWER if speedup.high < 1 / beyond else UNDECIDED


def compare(
    pair: Pair,
    open_side: Opener,
    images: Array,
    batch: int,
    plan: Plan,
    free_memory: Callable[[], int] | None = None,
    clock: Clock = time.perf_counter,
    on_round: Callable[[int], None] = lambda done: None,
) -> Comparison:
    """Open the three sides, measure them in turns, close them. Raises what opening and running raise."""

    def side(variant: Variant) -> Side:
        session = open_side(variant)
        return session, feeds_of(session, images, batch)

    found = take_turns(
        lambda: side(pair.variant), lambda: side(pair.against), batch, plan, free_memory, clock, on_round
    )
    return Comparison(pair=pair, batch=batch, **vars(found))


def take_turns(
    candidate: Callable[[], Side],
    reference: Callable[[], Side],
    batch: int,
    plan: Plan,
    free_memory: Callable[[], int] | None = None,
    clock: Clock = time.perf_counter,
    on_round: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Open the candidate, and the reference twice; measure them in turns; close them; as often as planned."""
    sides = {"variant": candidate, "against": reference, "again": reference}
    parts: list[dict[str, Series]] = []
    taken: dict[str, int | None] = {}
    kind, done = "", 0
    for number, part in enumerate(plan.parts()):
        order = [*sides] if not number else np.random.default_rng(part.seed).permutation([*sides]).tolist()
        named = {name: sides[name] for name in order}
        found, more, kind = _one_opening(named, part, free_memory, clock, partial(_told, on_round, done))
        taken = taken or more
        done += len(found["variant"].seconds)
        parts.append(found)
    ours, theirs, again = (Series.joined([part[name] for part in parts]) for name in sides)
    return Measured(
        clock=kind,
        variant=_figures(ours, batch, taken["variant"]),
        against=_figures(theirs, batch, taken["against"]),
        speedup=paired_ratio(theirs.seconds, ours.seconds),
        with_copies=_copies_ratio(theirs, ours),
        noise=paired_ratio(theirs.seconds, again.seconds),
    )


def _told(on_round: Callable[[int], None], before: int, done: int) -> None:
    on_round(before + done)


def _one_opening(
    sides: Mapping[str, Callable[[], Side]],
    plan: Plan,
    free_memory: Callable[[], int] | None,
    clock: Clock,
    on_round: Callable[[int], None],
) -> tuple[dict[str, Series], dict[str, int | None], str]:
    """The times of all sides, what opening each took of the device's memory, and what the times are of."""
    timers: dict[str, Timer] = {}
    taken: dict[str, int | None] = {}
    with ExitStack() as stack:
        for name, open_it in sides.items():
            before = free_memory() if free_memory else 0
            session, feeds = open_it()
            stack.enter_context(session)
            timers[name] = timer_of(session, feeds, clock)
            stack.callback(timers[name].close)
            timers[name](0)  # kernels and workspaces are loaded by the first run
            taken[name] = before - free_memory() if free_memory else None
        return measure(timers, plan, clock, on_round), taken, timers["variant"].kind


def _figures(series: Series, batch: int, device_bytes: int | None) -> Figures:
    latency = Summary.of(series.seconds)
    copies = None if series.with_copies is None else Summary.of(series.with_copies)
    return Figures(latency, copies, batch / latency.median_ms * 1e3, device_bytes)


def _copies_ratio(reference: Series, candidate: Series) -> Ratio | None:
    if reference.with_copies is None or candidate.with_copies is None:
        return None
    return paired_ratio(reference.with_copies, candidate.with_copies)


def noise_json(noise: Ratio) -> Facts:
    """The A/A pair for machines."""
    return asdict(noise) | {"limit": NOISE_LIMIT, "too_noisy": noise.deviation > NOISE_LIMIT}


def variant_json(variant: Variant) -> Facts:
    """Which variant, for machines."""
    return {
        "name": variant.name,
        "sha256": variant.sha256,
        "budget_gmacs": variant.budget_gmacs,
        "gmacs_executed": variant.gmacs_executed,
        "keep": variant.keep,
        "lowering": variant.lowering,
        "precision": variant.precision,
        "batch": variant.batch,
    }
