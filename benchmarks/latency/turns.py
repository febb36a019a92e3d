"""All sides of a case in turn, one run each per round, in one process; then every ratio that is asked for.

The rounds, clocks and intervals are `tofe-export bench`'s own. Sessions that share a process do not spin. The
number of rounds follows from the time that one takes, so that slow cases end too; at least LEAST of them.
Where a session's memory happens to lie alone makes up to 2 % at batch 1, so rounds may be shared out among
several openings of all sessions, in another order each time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latency.cases import AGAIN, DENSE, ORACLE, OURS, PLAIN
from tofe_export.bench.comparison import NOISE_LIMIT, verdict
from tofe_export.bench.rounds import Plan, Series, measure
from tofe_export.bench.statistics import LEAST_ROUNDS, Summary, paired_ratio
from tofe_export.bench.timing import Timer, timer_of
from tofe_export.runtime.onnxruntime import OnnxRuntimeSession, Tuning
from tofe_export.runtime.session import Session

LEAST, MOST, WARMUP = 10, 100, 1  # rounds
REFERENCES = (PLAIN, DENSE, ORACLE, *OURS)
"""Every side's speed is given relative to these, as far as they are there."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class How:
    """What runs the graphs, and about how long a group of them may take."""

    provider: str = "cpu"
    threads: int = 2
    seconds: float = 40.0
    openings: int = 1


def measure_turns(files: Mapping[str, Path], how: How) -> dict[str, Series]:
    """The times of all sides, and of `dense` a second time. Raises what opening and running raise."""
    named = dict(files) | ({AGAIN: files[DENSE]} if DENSE in files else {})
    drawn = (np.random.default_rng(number).permutation([*named]) for number in range(1, how.openings))
    orders = [[*named], *(order.tolist() for order in drawn)]
    parts = [_one_opening({name: named[name] for name in order}, how) for order in orders]
    return {name: Series.joined([part[name] for part in parts]) for name in named}


def _one_opening(named: Mapping[str, Path], how: How) -> dict[str, Series]:
    with ExitStack() as stack:
        timers: dict[str, Timer] = {}
        tuning = Tuning(how.threads, spinning=how.provider != "cpu")
        for name, path in named.items():
            session = stack.enter_context(OnnxRuntimeSession(path, how.provider, tuning))
            timers[name] = timer_of(session, feeds_of(session))
            stack.callback(timers[name].close)
            timers[name](0)  # memory and kernels are taken by the first run
        once = sum(timer(0).seconds for timer in timers.values())
        rounds = math.ceil(min(MOST, max(LEAST, how.seconds / once)) / how.openings)
        return measure(timers, Plan(iterations=max(rounds, LEAST_ROUNDS), warmup=WARMUP))


def feeds_of(session: Session, count: int = 2) -> list[dict[str, Any]]:
    """Images from a fixed seed, as the graph's one input wants them."""
    random = np.random.RandomState(0)
    (info,) = session.inputs.values()
    shape = [int(size) for size in info.shape]  # ValueError for a dynamic one: sides have fixed shapes
    return [{info.name: random.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def describe(found: Mapping[str, Series]) -> Facts:
    """Summaries, ratios to the references with intervals and verdicts, and the raw times."""
    noise = paired_ratio(found[DENSE].seconds, found[AGAIN].seconds) if AGAIN in found else None
    sides: Facts = {}
    for name, series in found.items():
        ratios: Facts = {}
        for reference in (r for r in REFERENCES if r in found and r != name):
            ratio = paired_ratio(found[reference].seconds, series.seconds)
            told = verdict(ratio, noise) if noise else None
            ratios[reference] = asdict(ratio) | {"verdict": told}
        sides[name] = {
            "latency": asdict(Summary.of(series.seconds)),
            "as_fast_as": ratios,
            "times_ms": [round(float(second) * 1e3, 4) for second in series.seconds],
        }
    facts: Facts = {"sides": sides, "noise": None}
    if noise:
        too_noisy = noise.deviation > NOISE_LIMIT
        facts["noise"] = asdict(noise) | {"limit": NOISE_LIMIT, "too_noisy": too_noisy}
    return facts
