"""Run the probe along another path: other tokens kept at one stage, and its own choice behind it.

Two uses. A clean product graph may break a near tie otherwise than its probe does (another fusion, another
rounding); its output then equals the probe's with those two tokens swapped. And a faulty product graph shows
what it does wrong: if the probe gives the same output when it is made to keep the lowest scores, that is it.
Equality to 1e-5 of the range does not happen by chance when a swapped token moves the output by 1e-2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import numpy as np

from tofe_export.runtime.session import Session
from tofe_export.verify.case import Case
from tofe_export.verify.compare import Array, Bools, span, worst
from tofe_export.verify.limits import Limits
from tofe_export.verify.observe import Observation, run_probe
from tofe_export.verify.sets import cut

Pick = Callable[[int, Array], Bools]  # stage, scores (m, N) -> kept (m, N)

MAX_PATHS = 12  # near ties tried per image


def follow(case: Case, probe: Session, pick: Pick) -> Observation:
    """The probe's run in which `pick` chooses at every stage, given the scores its earlier choices led to.

    Takes S + 1 runs: the scores of a stage are known only once the sets before it are forced.
    """
    kept = np.zeros(case.kept.shape, bool)
    for stage in range(case.stages):
        seen = run_probe(case, probe, _with_later_stages(case, kept, stage))
        kept[:, stage] = pick(stage, seen.scores[:, stage])
    return run_probe(case, probe, kept)


def natural(case: Case, stage: int, scores: Array) -> Bools:
    """What the model itself would keep: (m, N) -> (m, N). Ties go to the lowest index."""
    rows = np.nan_to_num(scores, nan=-np.inf)
    kept = np.zeros(rows.shape, bool)
    if case.thresholds is not None:
        kept |= rows > case.thresholds[stage]
        np.put_along_axis(kept, rows.argmax(1)[:, None], True, axis=1)
        return kept
    order = np.argsort(-rows, axis=1, kind="stable")[:, : case.keep[stage]]
    np.put_along_axis(kept, order, True, axis=1)
    return kept


def near_ties(
    case: Case, limits: Limits, probe: Session, free: Observation, product: Array, undecided: Bools
) -> Bools:
    """Which undecided images the product got by breaking one near tie otherwise than the probe, (n,)."""
    tied = np.zeros(len(undecided), bool)
    finite = np.isfinite(np.where(free.scored, free.scores, 0)).all((1, 2))
    for i in np.flatnonzero(undecided & finite):
        one = case.only(np.array([i]))
        for pick in islice(_other_ways(one, limits, free.scores[i], free.kept[i]), MAX_PATHS):
            again = follow(one, probe, pick).output
            tied[i] = tied[i] or worst(again, product[[i]], span(one.expected))[0] <= 2 * limits.output
    return tied


def _other_ways(case: Case, limits: Limits, scores: Array, kept: Bools) -> Iterator[Pick]:
    """Paths of one image that differ from the probe's by what rounding can do at one stage; arrays (S, N)."""
    for stage in range(case.stages):
        tolerance = 2 * limits.scores * span(scores[[stage]])[0]
        row, mine = scores[stage].astype(np.float64), kept[stage]
        low, high = cut(row, mine, case.thresholds[stage] if case.thresholds else None)
        out = np.flatnonzero(mine & (row - low <= tolerance))
        into = np.flatnonzero(~mine & (high - row <= tolerance))
        single = [(int(token),) for token in (*out, *into)]
        swaps = single if case.adaptive else [(int(a), int(b)) for a in out for b in into]
        yield from (partial(_swapped, case, kept, stage, swap) for swap in swaps)


def _swapped(case: Case, kept: Bools, at: int, swap: tuple[int, ...], stage: int, scores: Array) -> Bools:
    if stage > at:
        return natural(case, stage, scores)
    sets: Bools = kept[[stage]].copy()
    if stage == at:
        sets[:, list(swap)] ^= True
    return sets


def _with_later_stages(case: Case, kept: Bools, stage: int) -> Bools:
    """Sets for a run of which only the scores of `stage` are wanted: later sets need only be possible."""
    sets: Bools = kept.copy()
    last = kept[:, stage - 1] if stage else np.zeros_like(kept[:, 0])
    for later in range(stage, case.stages):
        if case.adaptive:
            sets[:, later] = last if stage else np.arange(case.tokens) == 0
        else:
            ids = np.argsort(~last, axis=1, kind="stable")[:, : case.keep[later]]
            np.put_along_axis(sets[:, later], ids, True, axis=1)
    return sets
