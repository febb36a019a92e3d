"""PyTorch's part of an export: thresholds that are missing, the answers that graphs are judged by, and how
much of those answers is rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tofe_export.graph.request import Planned, Request
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.references import (
    Answers,
    Floats,
    adaptive_answers,
    dense_answers,
    rounding,
    starts,
    static_answers,
    thresholds_on,
)
from tofe_export.model.tofe import ToFe
from tofe_export.reference import Reference

if TYPE_CHECKING:
    from torch import Tensor

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
    many, some = _Asked(model, request.output, images), _Asked(exact, request.output, few)
    for key in dict.fromkeys(variant.reference for variant in planned):
        variant = next(v for v in planned if v.reference == key)
        answers = many.about(variant, say)
        say(f"rounding in {key}")
        noise[key] = rounding(answers, some.about(variant, lambda text: None))
        reference = reference.with_entry(key, answers.output, answers.scores, answers.kept)
    return reference, noise


@dataclass
class _Asked:
    """A model that is asked about the same images with many budgets; what these share is computed once."""

    model: ToFe
    output: str
    images: Floats
    _begun: list[Tensor] | None = None

    def about(self, variant: Planned, say: Say) -> Answers:
        """The answers to one variant."""
        done, model, images, output = 0, self.model, self.images, self.output

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
        if self._begun is None:
            self._begun = starts(model, images)
        return static_answers(model, images, variant.keep, output, step, self._begun)
