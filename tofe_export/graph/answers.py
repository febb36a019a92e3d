"""PyTorch's part of an export: thresholds that are missing, and the answers that graphs are judged by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tofe_export.graph.request import Planned, Request
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.references import (
    Answers,
    adaptive_answers,
    dense_answers,
    static_answers,
    thresholds_on,
)
from tofe_export.reference import Reference

Say = Callable[[str], None]
"""Told what is being done; for progress."""


def settle_thresholds(
    checkpoint: Checkpoint, planned: Sequence[Planned], reference: Reference, say: Say
) -> list[Planned]:
    """Adaptive variants without thresholds of their own get them from the reference images."""
    settled = []
    for variant in planned:
        plan = variant.plan
        if variant.lowering != "adaptive" or plan is None:
            settled.append(variant)
        elif plan.thresholds is not None:
            settled.append(variant.with_thresholds(plan.thresholds, plan.source))
        else:
            say(f"thresholds for {variant.name}")
            found = thresholds_on(checkpoint.model, reference.images, variant.keep, lambda done: None)
            source = f"{plan.source}; thresholds from the {len(reference)} reference images"
            settled.append(variant.with_thresholds(found, source))
    return settled


def answer(
    checkpoint: Checkpoint, request: Request, planned: Sequence[Planned], reference: Reference, say: Say
) -> Reference:
    """Let PyTorch answer for every set of keep counts or thresholds."""
    for key in dict.fromkeys(variant.reference for variant in planned):
        variant = next(v for v in planned if v.reference == key)
        answers = _answers_for(checkpoint, request.output, variant, reference, say)
        reference = reference.with_entry(key, answers.output, answers.scores, answers.kept)
    return reference


def _answers_for(
    checkpoint: Checkpoint, output: str, variant: Planned, reference: Reference, say: Say
) -> Answers:
    model, images, done = checkpoint.model, reference.images, 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        say(f"PyTorch's answers for {variant.reference}, {done} of {len(images)} images")

    if variant.lowering == "dense":
        return dense_answers(model, images, output, step)
    if variant.lowering == "adaptive":
        assert variant.plan is not None  # adaptive variants have one
        assert variant.plan.thresholds is not None  # settled before
        return adaptive_answers(model, images, variant.plan.thresholds, output, step)
    return static_answers(model, images, variant.keep, output, step)
