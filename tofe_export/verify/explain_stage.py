"""Explanations that concern one stage: its count, its selection, its selector, or what lies in front of it.

The forced run separates parts that a free run mixes up. Under the reference's kept sets every stage sees the
reference's tokens, so a stage whose scores are wrong while the output is right has a wrong selector and
nothing else; the first wrong stage with a wrong output points at what lies before it. At that stage, errors
on formerly frozen tokens only point at the approximator, on formerly kept ones at gather or blocks.

Each takes a Patient and returns a Diagnosis, or None where it does not fit.
"""

from __future__ import annotations

import numpy as np

from tofe_export.verify import symptoms
from tofe_export.verify.compare import errors
from tofe_export.verify.experiments import undo_shift
from tofe_export.verify.patient import Patient, concentration, saturation
from tofe_export.verify.report import Diagnosis
from tofe_export.verify.runs import Runs
from tofe_export.verify.sets import score_errors


def counts(patient: Patient) -> Diagnosis | None:
    """Other numbers of tokens, or tokens twice."""
    if (check := patient.failed.get("kept counts")) is None:
        return None
    expected, found = check.numbers["expected"], check.numbers["found"]
    wrong = [s for s, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b]
    stage = wrong[0] + 1 if wrong else None
    if len(wrong) > 1 and sorted(expected) == sorted(found):
        sentence = f"keep counts of stages are exchanged: {check.detail}"
        return Diagnosis("stages-swapped", "keep counts", sentence, stage)
    cause = "keep-count" if wrong or "forced" in check.detail else "duplicate-tokens"
    return Diagnosis(cause, f"selection {stage}" if stage else "selection", check.detail, stage)


def selection(patient: Patient) -> Diagnosis | None:
    """Scores are right and the kept sets are not what they say."""
    runs = patient.runs
    if runs.free is None or "kept sets" not in patient.failed:
        return None
    s = min(swap.stage for swap in runs.swaps if swap is not None and not swap.explained)
    rows = np.array([swap is not None and swap.stage == s for swap in runs.swaps])
    if (runs.score_errors[rows, s] > runs.limits.scores).any():
        return None
    kept, expected, scores = runs.free.kept[rows, s], runs.case.kept[rows, s], runs.case.scores[rows]
    place, stage = f"selection {s + 1}", s + 1
    if symptoms.keeps_lowest(kept, scores[:, s]):
        return Diagnosis("scores-negated", place, f"{place} keeps the tokens with the lowest scores", stage)
    if d := symptoms.shift(kept, expected):
        return Diagnosis("ids-shifted", place, f"kept ids of {place} are off by {d:+d}", stage, {"shift": d})
    for t in range(runs.case.stages):
        if t != s and np.array_equal(kept, runs.case.kept[rows, t]):
            sentence = f"{place} keeps what selection {t + 1} should keep"
            return Diagnosis("stages-swapped", place, sentence, stage)
    sentence = f"{place} does not keep the tokens with the highest scores, though its scores are right"
    return Diagnosis("selection", place, sentence, stage)


def selector(patient: Patient) -> Diagnosis | None:
    """Wrong scores while everything behind forced sets is right: selectors and nothing else."""
    runs = patient.runs
    if runs.forced is None or "scores" not in patient.failed:
        return None
    found, expected, limit = runs.forced.scores, runs.case.scores, runs.limits.scores
    wrong = [int(s) for s in np.flatnonzero((score_errors(found, expected) > limit).any(0))]
    flipped = [s for s in wrong if symptoms.negated(found[:, s], expected[:, s], limit)]
    names = ", ".join(str(s + 1) for s in flipped or wrong)
    if flipped:
        sentence = f"the scores of stage {names} are negated: the selector keeps what it should freeze"
        return Diagnosis("scores-negated", f"selector {names}", sentence, flipped[0] + 1)
    if not wrong or f"forced {runs.case.output}" in patient.failed:
        return None
    if pair := symptoms.crossed(found, expected, wrong):
        a, b = (s + 1 for s in pair)
        place = f"selectors {a} and {b}"
        return Diagnosis("stages-swapped", place, f"{place} are exchanged", a)
    likely = ", exchanged selectors are possible" if len(wrong) > 1 else ""
    evidence = {
        f"correlation_{s + 1}": round(symptoms.correlation(found[:, s], expected[:, s]), 3) for s in wrong
    }
    hint = saturation(found[:, wrong], expected[:, wrong])
    sentence = f"only the scores of stage {names} are wrong: weights of selector {names}{likely}{hint}"
    cause = "saturation" if hint else "selector-weights"
    return Diagnosis(cause, f"selector {names}", sentence, wrong[0] + 1, evidence)


def place(patient: Patient) -> Diagnosis | None:
    """The output is wrong under forced sets: the first wrong scores tell after which selection it began."""
    runs, case = patient.runs, patient.runs.case
    forced = runs.forced
    if forced is None or patient.probe is None or f"forced {case.output}" not in patient.failed:
        return None
    wrong = (score_errors(forced.scores, case.scores) > runs.limits.scores).any(0)
    s = int(wrong.argmax()) if wrong.any() else case.stages
    place, stage = case.between(s), min(s, case.stages - 1) + 1
    if s == 0:
        return _stem(runs, place)
    if d := undo_shift(case, runs.limits, patient.probe, s - 1):
        sentence = f"the gather of selection {s} is off by {d:+d}: forced ids moved by {-d:+d} cure it"
        return Diagnosis("ids-shifted", f"selection {s}", sentence, s, {"shift": d})
    if s == case.stages:
        hint = saturation(forced.output, case.expected)
        sentence = (
            f"all scores are right and the output is not: {place}, that is the gather of selection {s}, the "
            f"blocks behind it, the norm or the head (or the reference's output is stale){hint}"
        )
        return Diagnosis("saturation" if hint else "head", place, sentence, stage)
    return _between_selections(runs, s, place)


def _stem(runs: Runs, place: str) -> Diagnosis:
    assert runs.forced is not None
    found, expected = runs.forced.scores[:, 0], runs.case.scores[:, 0]
    hint, (few, evidence) = saturation(found, expected), concentration(found, expected)
    sentence = (
        f"scores of stage 1 differ already: {place}, where nothing is selected yet. Weights of the stem or "
        "the first blocks are not the checkpoint's, or the reference is stale (from another checkpoint)"
        f"{hint or few}"
    )
    return Diagnosis("saturation" if hint else "weights-or-reference", place, sentence, 1, evidence)


def _between_selections(runs: Runs, s: int, place: str) -> Diagnosis:
    """Which tokens are wrong at stage s (0-based): those kept in the stage before, or frozen, or all."""
    assert runs.forced is not None
    found, expected = runs.forced.scores[:, s], runs.case.scores[:, s]
    limit, before = runs.limits.scores, runs.case.kept[:, s - 1]
    wrong = errors(found, expected) > limit
    moved = symptoms.displaced(found, expected, before, limit)
    kept, frozen = bool(wrong[before].any()), bool(wrong[~before].any())
    if moved or symptoms.rearranged(found, expected, limit):
        by = f" ({moved:+d})" if moved else ""
        sentence = (
            f"scores of stage {s + 1} are right but at other places{by}: thaw {s} puts tokens elsewhere"
        )
        return Diagnosis("tokens-misplaced", f"thaw {s}", sentence, s + 1)
    if frozen and not kept:
        sentence = f"only tokens that were frozen in stage {s} are wrong: approximator {s}, or their thaw"
        return Diagnosis("approximator", f"approximator {s}", sentence, s + 1)
    hint, (few, evidence) = saturation(found, expected), concentration(found, expected, before)
    which = "only tokens that were kept" if not frozen else "kept and frozen tokens"
    sentence = f"right up to selection {s}, wrong {place}: {which} of stage {s} differ"
    what = "gather or blocks" if not frozen else "gather, thaw, blocks, or a selector that mixes tokens"
    sentence += f", so suspect {what}{hint or few}"
    return Diagnosis("saturation" if hint else "stage", place, sentence, s + 1, evidence)
