"""The named checks of one variant. Each returns a Check and knows nothing of causes: diagnose.py does.

Every image counts everywhere: a kept set that differs must be explained by its margin, and a product output
that differs by such a set, or by a run of the probe that reproduces it, or it fails.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tofe_export.verify.case import Case
from tofe_export.verify.compare import Array, Bools, errors, not_finite, worst
from tofe_export.verify.limits import Limits
from tofe_export.verify.report import Check
from tofe_export.verify.runs import Runs

SAME = 1e-6  # of the range: answers to different images that are closer than that are one answer


def check_reference(case: Case) -> Check:
    """The reference itself: finite, with as many tokens as the manifest says, and kept by score."""
    name = "reference"
    if problem := not_finite(case.expected):
        return Check(name, False, f"the reference's {case.output} hold {problem}; export the bundle again")
    scored = ~np.isnan(case.scores)
    for s in range(case.stages):
        row, kept = np.where(scored[:, s], case.scores[:, s], -np.inf), case.kept[:, s]
        if not kept.any(-1).all() or (kept & ~np.isfinite(row)).any() or np.isposinf(row).any():
            return Check(
                name, False, f"stage {s + 1}: the reference's kept tokens need finite scores, and be some"
            )
        counts = sorted({int(count) for count in kept.sum(-1)})
        if not case.adaptive and counts != [case.keep[s]]:
            found = ", ".join(map(str, counts))
            detail = f"stage {s + 1}: the manifest keeps {case.keep[s]} tokens, the reference {found}"
            return Check(name, False, detail, {"stage": s + 1, "keep": case.keep[s]})
        if (np.where(kept, row, np.inf).min(-1) < np.where(kept, -np.inf, row).max(-1)).any():
            return Check(name, False, f"stage {s + 1}: the reference keeps others than the highest scores")
    return Check(name, True, f"{len(case.images)} images")


def check_shapes(runs: Runs) -> Check:
    """Product and probe give arrays of the reference's shape."""
    shapes = {"product": runs.product.shape} | ({"probe": runs.free.output.shape} if runs.free else {})
    expected = runs.case.expected.shape
    wrong = [f"{name} {shape}" for name, shape in shapes.items() if shape != expected]
    return Check("output shape", not wrong, f"expected {expected}, found {', '.join(wrong) or 'the same'}")


def check_finite(runs: Runs) -> Check:
    """No NaN, no Inf in outputs and scores; `stage` is the first that has one (S + 1: the output)."""
    problems: list[tuple[int, str]] = []
    last = runs.case.stages + 1
    if problem := not_finite(runs.product):
        problems.append((last, f"product output: {problem}"))
    for mode, seen in (("choosing", runs.free), ("forced", runs.forced)):
        if seen is None:
            continue
        scores = np.where(seen.scored, seen.scores, 0).swapaxes(0, 1)
        for stage, values in enumerate([*scores, seen.output], start=1):
            what = f"scores of stage {stage}" if stage < last else "output"
            problems += [
                (stage, f"probe ({mode}), {what}: {problem}") for problem in [not_finite(values)] if problem
            ]
    problems.sort()
    detail = "; ".join(text for _, text in problems[:4]) or "all outputs and scores are finite"
    return Check("finite", not problems, detail, {"stage": problems[0][0]} if problems else {})


def check_counts(runs: Runs) -> Check:
    """The probe keeps K_s distinct tokens that exist, and scores each token once."""
    case, free = runs.case, runs.free
    assert free is not None
    distinct = free.kept.sum(-1)
    problems = []
    for s in range(case.stages):
        expected = free.listed[:, s] if case.adaptive else np.full(len(distinct), case.keep[s])
        if not np.array_equal(free.listed[:, s], expected):
            problems.append(f"stage {s + 1} keeps {free.listed[0, s]} tokens instead of {expected[0]}")
        elif not np.array_equal(distinct[:, s], expected):
            real = f"{distinct[:, s].min()} distinct ones among {expected[0]}"
            problems.append(f"stage {s + 1} keeps tokens twice or tokens that do not exist ({real})")
        elif not free.ids_valid[:, s].all():
            problems.append(f"stage {s + 1} scores tokens twice or tokens that do not exist")
        elif runs.widths and runs.widths[s] != case.keep[s]:
            problems.append(f"stage {s + 1} takes {runs.widths[s]} forced tokens instead of {case.keep[s]}")
    found = [int(count) for count in free.listed[0]]
    numbers = {"expected": found if case.adaptive else list(case.keep), "found": found}
    return Check("kept counts", not problems, "; ".join(problems) or "as in the manifest", numbers)


def check_scores(runs: Runs) -> Check:
    """Selector scores within the limit, wherever the stage saw the reference's tokens."""
    error, limit = runs.score_errors.max(axis=0), runs.limits.scores
    stages = [s + 1 for s in np.flatnonzero(~(error <= limit))]
    detail = f"largest error {error.max():.1e} of the range (limit {limit:.0e})"
    if stages:
        detail += f", beyond the limit at stage {', '.join(map(str, stages))}"
    return Check("scores", not stages, detail, {"largest": error.tolist(), "limit": limit})


def check_sets(runs: Runs) -> Check:
    """Kept sets equal, or the first difference lies within twice the measured score error of the cut."""
    swaps = [swap for swap in runs.swaps if swap is not None]
    wrong = [swap for swap in swaps if not swap.explained]
    n = len(runs.case.images)
    if wrong:
        one = wrong[0]
        detail = (
            f"{len(wrong)} of {n} images keep other tokens than their scores explain; image {one.image}, "
            f"stage {one.stage + 1}: {len(one.lost)} tokens swapped, up to {one.distance:.1e} from the cut "
            f"(rounding explains {one.allowed:.1e})"
        )
    elif swaps:
        detail = f"equal on {n - len(swaps)} of {n} images, near ties on the others"
    else:
        detail = f"equal on all {n} images"
    numbers = {"different": len(swaps), "unexplained": len(wrong)}
    return Check("kept sets", not wrong, detail, numbers)


def check_forced(runs: Runs) -> Check:
    """The probe's output under the reference's kept sets, on every image."""
    case, forced = runs.case, runs.forced
    name = f"forced {case.output}"
    if forced is None:
        return Check(name, False, "not run: the probe cannot take the reference's kept sets")
    if not np.array_equal(forced.kept, case.kept):
        return Check(name, False, "the probe reports other kept sets than it was told to keep")
    error = worst(forced.output, case.expected)
    return _judged(name, error <= runs.limits.output, error, runs.limits)


def check_output(runs: Runs) -> Check:
    """The product's output: the reference's, or that of a path which rounding explains."""
    error = runs.agreement.worst
    fine = error <= runs.limits.output
    if runs.free is not None:
        fine = fine | _tied(runs) | (~runs.equal & _explained(runs) & runs.product_matches_probe)
    return _judged(runs.case.output, fine, error, runs.limits)


def check_twins(runs: Runs) -> Check:
    """Product and probe are one computation: they agree with each other, whatever the reference says."""
    error = runs.twin_errors
    same_as_reference = runs.agreement.worst <= runs.limits.output
    fine = runs.product_matches_probe | _tied(runs) | (~runs.equal & _explained(runs) & same_as_reference)
    return _judged("product is probe", fine, error, runs.limits)


def check_top1(runs: Runs) -> Check:
    """The same best class where kept sets are equal, unless the reference's two best are within the limit."""
    same, gap = runs.agreement.same_top1, runs.agreement.top2_gap
    if same is None or gap is None:
        return Check("top-1", True, "not applicable")
    excused = (gap <= 2 * runs.limits.output) | ~runs.equal | _tied(runs)
    numbers = {"agreement": float(same.mean()), "images": len(same), "least_gap": float(gap.min())}
    detail = f"{int(same.sum())} of {len(same)} images agree"
    return Check("top-1", bool((same | excused).all()), detail, numbers)


def check_input_used(runs: Runs) -> Check:
    """Different images give different answers, where the reference's differ."""
    case, free = runs.case, runs.free
    pairs = {f"the {case.output}": (runs.product, case.expected)}
    if free is not None:
        scores = ((free.scores[:, s], case.scores[:, s]) for s in range(case.stages))
        pairs |= {f"the scores of stage {s}": pair for s, pair in enumerate(scores, start=1)}
    fixed = [
        what for what, (found, expected) in pairs.items() if _same_rows(found) and not _same_rows(expected)
    ]
    if fixed:
        return Check("depends on input", False, f"{', '.join(fixed)} are the same for every image")
    return Check("depends on input", True, "different images, different answers")


def _same_rows(array: Array) -> bool:
    """All rows equal up to rounding; rows that are not finite count as different."""
    first = np.repeat(array[:1], len(array), axis=0)
    return bool(np.isfinite(array[0]).any()) and bool((errors(array, first) <= SAME).all())


def all_checks(runs: Runs) -> tuple[Check, ...]:
    """The checks that apply, in the order in which a person would ask."""
    shape = check_shapes(runs)
    if not shape.passed:
        return (shape,)
    outer = [shape, check_finite(runs), check_input_used(runs)]
    if runs.free is None:  # dense, or an engine without a probe
        return (*outer, check_output(runs), check_top1(runs))
    inner = [check_counts, check_scores, check_sets, check_forced, check_output, check_twins, check_top1]
    return (*outer, *(check(runs) for check in inner))


def _explained(runs: Runs) -> Bools:
    return np.array([swap is None or swap.explained for swap in runs.swaps])


def _tied(runs: Runs) -> Bools:
    return np.zeros(len(runs.product), bool) if runs.tied is None else runs.tied


def _judged(name: str, fine: Bools, error: Array, limits: Limits) -> Check:
    failed = int((~fine).sum())
    numbers: dict[str, Any] = {"worst": float(error.max()), "limit": limits.output, "failed": failed}
    detail = f"largest error {error.max():.1e} of the range (limit {limits.output:.0e})"
    if failed:
        detail += f", {failed} of {len(fine)} images fail"
    elif (excused := int((error > 2 * limits.output).sum())) > 0:
        detail += f", {excused} images explained by near ties"
    return Check(name, not failed, detail, numbers)
