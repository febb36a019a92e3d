"""Measuring a ladder: each rung takes turns with the dense model, two sessions at a time.

A dozen sessions of a large model do not fit into a small device's memory, so rungs are opened one after the
other, while the dense session stays open. What drifts between them (clocks, temperature, a neighbour) drifts
for the dense model too, and the *share* of paired rounds does not see it; milliseconds are that share times
the dense model's median over everything that was measured. First the dense model is measured against itself,
to tell how noisy the machine is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import numpy as np

from tofe_export.bench.document import settings_of
from tofe_export.bench.rounds import Clock, Plan, Series, measure
from tofe_export.bench.sides import How, Opener, feeds_of
from tofe_export.bench.statistics import Ratio, paired_ratio
from tofe_export.bench.timing import Timer, timer_of
from tofe_export.bundle import Bundle
from tofe_export.latency.rungs import Rungs, count_of
from tofe_export.latency.table import Entry, Step, Table
from tofe_export.manifest import Variant
from tofe_export.runtime.session import Array

SECONDS = 2.0
"""Per rung, its dense partner included."""
_ROUNDS = (8, 60)  # at least, at most
_DENSE, _OTHER = "dense", "other"


@dataclass(frozen=True)
class Length:
    """How long to measure a rung: seconds of rounds, within limits on their number, or so many rounds."""

    seconds: float = SECONDS
    iterations: int | None = None
    warmup: int = 2

    def plan(self, round_seconds: float) -> Plan:
        """The plan for rounds of that length."""
        least, most = _ROUNDS
        rounds = self.iterations or min(max(int(self.seconds / round_seconds), least), most)
        return Plan(iterations=rounds, warmup=self.warmup)


@dataclass
class Bench:
    """Measures the rungs of one bundle. `images` (n, ...) as its graphs take them."""

    bundle: Bundle
    open_side: Opener
    images: Array
    batch_of: Callable[[Variant], int]
    length: Length = Length()
    clock: Clock = time.perf_counter
    say: Callable[[str], None] = lambda text: None
    _dense: list[Series] = field(default_factory=list)

    def entry(self, rungs: Rungs) -> Entry:
        """Measure one lowering, precision and batch. Raises what opening and running raise."""
        self._dense.clear()
        manifest = self.bundle.manifest
        with ExitStack() as stack:
            dense = self._open(stack, rungs.dense)
            noise = self._share(dense, rungs.dense).deviation
            steps = [self._step(dense, variant) for variant in rungs.variants]
        first = rungs.variants[0]
        return Entry(
            image_size=manifest.preprocessing.size,
            lowering=first.lowering,
            precision=first.precision,
            batch=self.batch_of(first),
            heads=rungs.heads,
            cost=manifest.cost,
            dense_ms=float(np.median(np.concatenate([series.seconds for series in self._dense]))) * 1e3,
            noise=noise,
            steps=tuple(steps),
        )

    def _step(self, dense: Timer, variant: Variant) -> Step:
        share = self._share(dense, variant)
        high = share.high if math.isfinite(share.high) else None
        return Step(count_of(variant), share.value, share.low, high, share.rounds)

    def _share(self, dense: Timer, variant: Variant) -> Ratio:
        """Time of the variant as a share of the dense model's, in paired rounds."""
        self.say(variant.name)
        with ExitStack() as stack:
            timers = {_DENSE: dense, _OTHER: self._open(stack, variant)}
            started = self.clock()
            for timer in timers.values():
                timer(1)
            found = measure(timers, self.length.plan(self.clock() - started), self.clock)
        self._dense.append(found[_DENSE])
        return paired_ratio(found[_OTHER].seconds, found[_DENSE].seconds)

    def _open(self, stack: ExitStack, variant: Variant) -> Timer:
        session = stack.enter_context(self.open_side(variant))
        timer = timer_of(session, feeds_of(session, self.images, self.batch_of(variant)), self.clock)
        stack.callback(timer.close)
        timer(0)  # kernels and workspaces are loaded by the first run
        return timer


def empty_table(bundle: Bundle, how: How, machine: dict[str, Any]) -> Table:
    """A table of this model, machine and way of measuring, without entries yet."""
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return Table(bundle.manifest.model.backbone, created, machine, settings_of(how), ())
