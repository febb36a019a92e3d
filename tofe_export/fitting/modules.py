"""One way to fit all selectors and approximators, stage by stage, in closed form and a few steps on rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from tofe_export.errors import UsageError
from tofe_export.fitting import approximators, selectors
from tofe_export.fitting.original import Images, Original, at_most
from tofe_export.fitting.signals import Signal, measure
from tofe_export.fitting.stage import collect, frozen_rows, recovering
from tofe_export.model.approximator import BottleneckApproximator
from tofe_export.model.selector import MlpSelector
from tofe_export.model.tofe import ToFe

STEPS = 300
"""Of Adam on rows, for a distilled selector as for an approximator."""


@dataclass(frozen=True)
class Way:
    """How selectors come about."""

    signal: Signal | None
    """What they are distilled from; None only spreads."""
    lottery: float
    """Weight of spreading in the target; without signal it is all there is."""
    draw: int = 0
    """Which random numbers."""

    @property
    def name(self) -> str:
        """As reports have it."""
        if self.signal is None:
            return f"spread {self.draw}"
        return f"{self.signal} and spread {self.draw}" if self.lottery else self.signal


WAYS = (
    Way("sensitivity", 0.0),
    Way("update", 0.0),
    *(Way(None, 1.0, draw) for draw in range(4)),
    *(Way("sensitivity", 2.0, draw) for draw in range(2)),
)


def check_structure(model: ToFe) -> None:
    """Raise UsageError for modules that have no closed form here."""
    structure = model.structure
    if structure.reuse and structure.approximator not in ("bottleneck", "identity"):
        raise UsageError(
            f"fit has a closed form for --approximator bottleneck and identity, found "
            f"{structure.approximator}: choose one of them, or train"
        )
    if structure.conditioned:
        raise UsageError("fit makes a model for one budget; selectors that know the budget are trained")


def signal_of(
    way: Way, model: ToFe, original: Original, images: Images, count: int, seed: int
) -> Tensor | None:
    """The way's signal (n, S, N) on the first `count` images, from a model whose modules are fresh."""
    if way.signal is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    batches = at_most(images, count)
    return torch.cat([measure(way.signal, model, original, batch, generator) for batch in batches])


def fit_modules(
    model: ToFe,
    original: Original,
    images: Images,
    keep: Sequence[int],
    way: Way,
    signal: Tensor | None,
    count: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Fit every stage's selector, and the approximator behind it, in place; returns what each explains."""
    stages: list[dict[str, Any]] = []
    for stage in range(model.stages):
        generator = torch.Generator().manual_seed(1000 * seed + 10 * way.draw + stage)
        data = collect(model, original, images, keep, stage, count)
        selector = cast(MlpSelector, model.selectors[stage])
        start = selectors.spread if way.lottery else selectors.plain
        start(selector, data.entry, generator)
        facts: dict[str, Any] = {"images": len(data.entry)}
        if signal is not None:
            rows = signal[: len(data.entry), stage].gather(1, data.ids)
            facts["selector"] = selectors.distil(selector, data.entry, rows, way.lottery, STEPS, generator)
        if recovering(model, stage):
            rows, later = frozen_rows(model, data, keep[stage], stage)
            facts |= _approximate(model, stage, rows, later, generator)
        stages.append(facts)
    return stages


def fit_approximators(
    model: ToFe, original: Original, images: Images, keep: Sequence[int], count: int, seed: int
) -> list[dict[str, Any]]:
    """Fit the approximators anew behind the selectors as they are, in place, stage after stage."""
    stages: list[dict[str, Any]] = []
    for stage in range(model.stages - 1 if model.structure.reuse else 0):
        generator = torch.Generator().manual_seed(1000 * seed + stage)
        data = collect(model, original, images, keep, stage, count)
        rows, later = frozen_rows(model, data, keep[stage], stage)
        stages.append(_approximate(model, stage, rows, later, generator))
    return stages


def _approximate(
    model: ToFe, stage: int, rows: Tensor, later: Tensor, generator: torch.Generator
) -> dict[str, Any]:
    approximator = model.approximators[stage]
    if not isinstance(approximator, BottleneckApproximator):
        return {"frozen": len(rows)}
    found = approximators.fit(approximator, rows, later, STEPS, generator)
    return {"frozen": len(rows), "closed_form": found.closed_form, "approximator": found.final}
