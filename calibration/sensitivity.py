"""Which parts of a model to leave unquantised, found by measurement.

Some are left out whatever the answers say: where outliers stretch the range so far that most of what a
product reads would become 0 (`ranges.outlying`), it computes nothing, and pictures that show it may be rare.

The answers of the INT8 graph are compared with those of its float32 twin on pictures that the ranges were not
made from. If they agree often enough, nothing else is left out. If not, each unit is quantised alone, and how
far the answers move ranks the units; then the worst ones are left out, as few as meet the agreement, found by
halving and each time measured on the whole graph: the ranking proposes, only the measurement decides.

NNCF's accuracy control and ModelOpt's AutoQuantize search in the same way. Neither was usable: NNCF inserts
and removes its own quantisers (asymmetric ones on activations and on residual sums, by its hardware tables),
and AutoQuantize works on PyTorch modules and needs a loss; both would bring torch-sized dependencies and give
up the placement that TensorRT needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from tofe_export.calibration.histogram import Array
from tofe_export.errors import PrecisionError
from tofe_export.verify.compare import compare

COSINE = 0.99
"""Where there are no classes, an answer agrees if its cosine with float32's is at least this."""
RANKED_IMAGES, RANKED_STEP = 64, 4
"""Units are ranked on every fourth picture, or on more where that would be fewer than 64."""

Try = Callable[[Sequence[str], int], Array]
"""Answers with these units left out, on every so many-th picture."""


@dataclass(frozen=True)
class Settled:
    """What is left out, and what that gives."""

    left_out: dict[str, str]
    """Unit -> why."""
    agreement: float
    """Of the graph as it is made, with float32."""
    agreement_of_all: float
    """With every unit quantised."""
    images: int


def agreement(found: Array, expected: Array, kind: str) -> float:
    """Share of pictures with the same best class; without classes, with a cosine of at least 0.99."""
    seen = compare(found, expected, kind)
    same = seen.same_top1 if seen.same_top1 is not None else seen.cosine >= COSINE
    return float(same.mean())


def damage(found: Array, expected: Array, kind: str) -> float:
    """How far answers moved: Kullback and Leibler's divergence of the classes, else the relative square."""
    if kind == "logits" and expected.shape[1] > 1:
        p, q = _log_softmax(expected), _log_softmax(found)
        return float((np.exp(p) * (p - q)).sum(axis=1).mean())
    difference = found.astype(np.float64) - expected
    return float(np.square(difference).mean() / max(np.square(expected.astype(np.float64)).mean(), 1e-30))


def settle(
    units: Sequence[str],
    expected: Array,
    kind: str,
    least: float,
    attempt: Try,
    outliers: Mapping[str, str] = MappingProxyType({}),
    say: Callable[[str], None] = lambda text: None,
) -> Settled:
    """Leave out `outliers` (unit -> why), and as few others as give an agreement of at least `least`.

    The agreement is that with `expected` (n, ...). Nothing is left out where none is asked for. Raises
    PrecisionError where only leaving out everything does.
    """

    def measure(left_out: Sequence[str]) -> float:
        found = agreement(attempt(left_out, 1), expected, kind)
        say(f"{len(left_out)} of {len(units)} units left out: {found:.1%} agree")
        return found

    of_all = reached = measure(())
    first = {unit: outliers[unit] for unit in units if unit in outliers and least > 0}
    others = [unit for unit in units if unit not in first]
    if first and others:
        reached = measure(list(first))
    if reached >= least and (others or not units):
        return Settled(first, reached, of_all, len(expected))
    ranked, count = _rank(others, units, expected, kind, attempt, say), 0
    if others:
        count, reached = _fewest(list(ranked), least, lambda worst: measure([*first, *worst]))
    if count == len(others):
        raise PrecisionError(
            f"INT8 agrees with float32 on {of_all:.1%} of {len(expected)} pictures, {least:.1%} were asked "
            "for (--min-agreement), and nothing but leaving every layer in float meets that. Calibrate with "
            "more pictures like those of the task, try another --int8-method, or lower --min-agreement"
        )
    worst = {unit: f"alone it moves the answers by {ranked[unit]:.1e}" for unit in list(ranked)[:count]}
    return Settled(first | worst, reached, of_all, len(expected))


def _rank(
    asked: Sequence[str],
    units: Sequence[str],
    expected: Array,
    kind: str,
    attempt: Try,
    say: Callable[[str], None],
) -> dict[str, float]:
    """What each of the units asked for does alone, worst first."""
    step = max(1, min(RANKED_STEP, len(expected) // RANKED_IMAGES))
    found = {}
    for unit in asked:
        say(f"what INT8 does in {unit}")
        others = [other for other in units if other != unit]
        found[unit] = damage(attempt(others, step), expected[::step], kind)
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _fewest(
    ranked: Sequence[str], least: float, measure: Callable[[Sequence[str]], float]
) -> tuple[int, float]:
    """How many of the worst to leave out, at least 1, and the agreement then; all: none was enough."""
    low, high, reached = 0, 1, 0.0
    while high < len(ranked):
        if (reached := measure(ranked[:high])) >= least:
            break
        low, high = high, min(2 * high, len(ranked))
    while high - low > 1 and high <= len(ranked):
        middle = (low + high) // 2
        if (found := measure(ranked[:middle])) >= least:
            high, reached = middle, found
        else:
            low = middle
    return high, reached


def _log_softmax(logits: Array) -> Array:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    normal: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normal
