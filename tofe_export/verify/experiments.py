"""Experiments on a variant that failed: run it again with one thing changed, and see whether that cures it.

A symptom makes a cause likely; an experiment that turns a wrong output into the right one, to 1e-5 of the
range, proves it. They cost a few more runs and happen only after a failure.
"""

from __future__ import annotations

from functools import partial
from itertools import permutations

import numpy as np

from tofe_export.runtime.session import Session
from tofe_export.verify.case import Case
from tofe_export.verify.compare import Array, Bools, span, worst
from tofe_export.verify.limits import Limits
from tofe_export.verify.observe import run_probe, run_product
from tofe_export.verify.replay import follow, natural
from tofe_export.verify.symptoms import displaced

SLACK = 10  # an experiment confirms within ten times the limit: its own path has its own rounding
SAMPLE = 2  # images


def other_inputs(case: Case, limits: Limits, product: Session, remade: Array | None) -> str | None:
    """Inputs that give the product the reference's output: "remade", or a channel order like "BGR"."""
    orders = [order for order in permutations(range(3)) if order != (0, 1, 2)]
    trials = {} if remade is None else {"remade": remade}
    trials |= {
        "".join("RGB"[c] for c in order): np.take(case.images, order, case.channel_axis) for order in orders
    }
    for name, images in trials.items():
        if (worst(run_product(case, product, images), case.expected) <= SLACK * limits.output).all():
            return name
    return None


def matching_rows(found: Array, expected: Array, limits: Limits) -> list[int] | None:
    """Whose reference each image matches, where that is another image's for at least one; else None."""
    rows = []
    for row in found:
        near = worst(np.broadcast_to(row, expected.shape), expected)
        if not near.min() <= SLACK * limits.output:
            return None
        rows.append(int(near.argmin()))
    return rows if rows != list(range(len(rows))) else None


def undo_shift(case: Case, limits: Limits, probe: Session, stage: int) -> int | None:
    """d, where forcing ids minus d at `stage` cures it: the gather is off by d.

    Cured is the output; or, where only the rows are gathered wrongly and then thawed at the right places, the
    next stage's scores, each found d places before its own. None without reuse: there the moved ids may be
    of tokens that are gone.
    """
    if not case.reuse:
        return None
    for d in (1, -1):
        sets = case.kept.copy()
        sets[:, stage] = np.roll(sets[:, stage], -d, axis=1)
        inside = np.flatnonzero(~case.kept[:, stage, 0 if d == 1 else -1])  # no id falls off the edge
        if not inside.size:
            continue
        found = run_probe(case.only(inside), probe, sets[inside])
        if (worst(found.output, case.expected[inside]) <= SLACK * limits.output).all():
            return d
        if stage + 1 < case.stages:
            scores, expected = found.scores[:, stage + 1], case.scores[inside, stage + 1]
            if displaced(scores, expected, case.kept[inside, stage], limits.scores) == -d:
                return d
    return None


def imitations(
    case: Case, limits: Limits, probe: Session, product: Array, failing: Bools
) -> tuple[str, int] | None:
    """The selection fault that makes the probe give the product's output, for a product that fails alone.

    ("negated", stage), ("shift +1", stage) or ("shift -1", stage); stage 0-based, -1 for all stages.
    """
    rows = np.flatnonzero(failing)[:SAMPLE]
    if not rows.size:
        return None
    faults = (("negated", 0), ("shift +1", 1), ("shift -1", -1))[: 3 if case.reuse else 1]
    one, wanted = case.only(rows), product[rows]
    for stage in (*range(case.stages), -1):
        for name, turn in faults:
            again = follow(one, probe, partial(_faulty, one, stage, turn)).output
            if (worst(again, wanted, span(one.expected)) <= SLACK * limits.output).any():
                return name, stage
    return None


def _faulty(case: Case, at: int, turn: int, stage: int, scores: Array) -> Bools:
    if at not in (stage, -1):
        return natural(case, stage, scores)
    if turn == 0:
        return natural(case, stage, -scores)
    shifted: Bools = np.roll(natural(case, stage, scores), turn, axis=1)
    return shifted
