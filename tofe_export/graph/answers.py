"""PyTorch's part of an export: thresholds that are missing, the answers that graphs are judged by, and how
much of those answers is rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np

from tofe_export.graph.request import Planned, Request
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.references import (
    Answers,
    Floats,
    adaptive_answers,
    dense_answers,
    rounding,
    static_answers,
    thresholds_on,
)
from tofe_export.model.tofe import ToFe
from tofe_export.reference import Reference

EXACT_IMAGES = 8
"""On how many images rounding is measured; float64 takes twice as long."""

Say = Callable[[str], None]
"""Told what is being done; for progress."""


def settle_thresholds(
    checkpoint: Checkpoint, planned: Sequence[Planned], reference: Reference, say: Say
) -> list[Planned]:
    """Adaptive variants without thresholds of their own get them from the reference images."""
    settled, known = [], dict[str, tuple[float, ...]]()
    for variant in planned:
        plan = variant.plan
        if variant.lowering != "adaptive" or plan is None:
            settled.append(variant)
        elif plan.thresholds is not None:
            settled.append(variant.with_thresholds(plan.thresholds, plan.source))
        else:
            say(f"thresholds for {variant.name}")
            if variant.twin not in known:  # they are the same in every precision
                checkpoint.model.set_budget(variant.condition_gmacs)
                images, keep = reference.images, variant.keep
                known[variant.twin] = thresholds_on(checkpoint.model, images, keep, lambda done: None)
            found = known[variant.twin]
            source = f"{plan.source}; thresholds from the {len(reference)} reference images"
            settled.append(variant.with_thresholds(found, source))
    return settled


def answer(
    checkpoint: Checkpoint, request: Request, planned: Sequence[Planned], reference: Reference, say: Say
) -> tuple[Reference, dict[str, float]]:
    """Let PyTorch answer for every set of keep counts or thresholds.

    Returns the reference with all answers, and per key how much of them is rounding, as a fraction of the
    range (see `references.rounding`).
    """
    model, exact = checkpoint.model, copy.deepcopy(checkpoint.model).double()
    images, noise = reference.images, {}
    few = images[:EXACT_IMAGES].astype(np.float64)
    for key in dict.fromkeys(variant.reference for variant in planned):
        variant = next(v for v in planned if v.reference == key)
        answers = _answers_for(model, request.output, variant, images, say)
        say(f"rounding in {key}")
        noise[key] = rounding(answers, _answers_for(exact, request.output, variant, few, lambda text: None))
        reference = reference.with_entry(key, answers.output, answers.scores, answers.kept)
    return reference, noise


def _answers_for(model: ToFe, output: str, variant: Planned, images: Floats, say: Say) -> Answers:
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        say(f"PyTorch's answers for {variant.reference}, {done} of {len(images)} images")

    model.set_budget(variant.condition_gmacs)
    if variant.lowering == "dense":
        return dense_answers(model, images, output, step)
    if variant.lowering == "adaptive":
        assert variant.plan is not None  # adaptive variants have one
        assert variant.plan.thresholds is not None  # settled before
        return adaptive_answers(model, images, variant.plan.thresholds, output, step)
    return static_answers(model, images, variant.keep, output, step)
