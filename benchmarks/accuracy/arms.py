"""Who takes part, as one literal list. An arm makes a contender for a start and budgets in GMACs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from accuracy import ours
from accuracy.contender import Contender, Start, judged
from accuracy.controls import (
    FewerBlocks,
    FixedPattern,
    FixedPatternObjective,
    LowerResolution,
    Pattern,
)
from accuracy.objectives import ClassObjective
from accuracy.rivals.dynamicvit import DynamicViT, DynamicViTObjective
from accuracy.rivals.evit import EViT
from accuracy.rivals.idlevit import IdleViT, IdleViTObjective
from accuracy.rivals.reduced import Reduced
from accuracy.rivals.tome import ToMe
from tofe_export.training.objective import Objective

Make = Callable[[Start, Sequence[float]], Contender]
EVIT_WEIGHT_DECAY = 1e-6


@dataclass(frozen=True)
class Arm:
    """One line of the table."""

    name: str
    """In results and on the command line."""
    label: str
    make: Make
    every_budget: bool = False
    """At every budget, not only at those where all are compared."""
    together: bool = False
    """One run for all budgets."""


def dynamicvit(start: Start, budgets: Sequence[float]) -> Contender:
    """DynamicViT with its own losses."""
    backbone = start.backbone()
    model = DynamicViT.for_macs(backbone, backbone.locations, budgets[0] * 1e9)
    return _reduced(
        start, budgets, "dynamicvit", model, DynamicViTObjective(model), fixed_epochs=start.size.waiting()
    )


def evit(start: Start, budgets: Sequence[float]) -> Contender:
    """EViT with the fused token."""
    backbone = start.backbone()
    model = EViT.for_macs(backbone, backbone.locations, budgets[0] * 1e9)
    return _reduced(start, budgets, "evit", model, ClassObjective(model), weight_decay=EVIT_WEIGHT_DECAY)


def tome(start: Start, budgets: Sequence[float], trained: bool = True) -> Contender:
    """ToMe, fine-tuned or as it is."""
    model = ToMe.for_macs(start.backbone(), budgets[0] * 1e9)
    return _reduced(start, budgets, "tome", model, ClassObjective(model) if trained else None)


def idlevit(start: Start, budgets: Sequence[float]) -> Contender:
    """IdleViT with its own losses."""
    backbone = start.backbone()
    model = IdleViT.for_macs(backbone, backbone.locations[0], budgets[0] * 1e9)
    return _reduced(start, budgets, "idlevit", model, IdleViTObjective(model))


def pattern(start: Start, budgets: Sequence[float], kind: Pattern = "random") -> Contender:
    """ToFe without selectors."""
    backbone = start.backbone()
    model = FixedPattern.for_macs(backbone, backbone.locations, kind, budgets[0] * 1e9)
    recipe = start.size.fine_tuning("tofe", start.seed, fixed_epochs=start.size.waiting())
    objective = FixedPatternObjective(model, recipe.lambda_apr)
    return Contender(recipe, lambda: judged(model, budgets[0], start.task), objective)


def fewer_blocks(start: Start, budgets: Sequence[float]) -> Contender:
    """The first blocks alone."""
    model = FewerBlocks.for_macs(start.backbone(), budgets[0] * 1e9)
    return _reduced(start, budgets, "control", model, ClassObjective(model))


def lower_resolution(start: Start, budgets: Sequence[float]) -> Contender:
    """Fewer, larger patches' worth of tokens."""
    model = LowerResolution.for_macs(start.backbone(), budgets[0] * 1e9)
    return _reduced(start, budgets, "control", model, ClassObjective(model))


def dense(start: Start, budgets: Sequence[float]) -> Contender:
    """The backbone fine-tuned like the others: what more epochs alone bring."""
    model = FewerBlocks(start.backbone(), len(start.dense.blocks))
    return _reduced(start, (None,), "control", model, ClassObjective(model))


def _reduced(
    start: Start,
    budgets: Sequence[float | None],
    method: str,
    model: Reduced,
    objective: Objective | None,
    **changes: Any,  # noqa: ANN401 - fields of the recipe
) -> Contender:
    recipe = start.size.fine_tuning(method, start.seed, **changes)
    return Contender(recipe, lambda: judged(model, budgets[0], start.task), objective)


ARMS = (
    Arm("dense", "dense, fine-tuned as long", dense),
    Arm("tofe", "ToFe", ours.tofe, every_budget=True),
    Arm(
        "tofe-multiplier",
        "ToFe, budget by a multiplier",
        partial(ours.tofe, budget_control="multiplier"),
        every_budget=True,
    ),
    Arm("no-reuse", "ToFe without reuse", partial(ours.tofe, structure={"reuse": False})),
    Arm(
        "identity",
        "ToFe, identity approximator",
        partial(ours.tofe, structure={"approximator": "identity"}),
    ),
    Arm("no-apr-loss", "ToFe without approximation loss", partial(ours.tofe, lambda_apr=0.0)),
    Arm("paper-apr-loss", "ToFe, approximation loss weighted by 2", partial(ours.tofe, lambda_apr=2.0)),
    Arm("fixed-ratios", "ToFe, fixed ratios", ours.fixed_ratios),
    Arm("random", "random selection", pattern, every_budget=True),
    Arm("radial", "centre tokens", partial(pattern, kind="radial")),
    Arm("fewer-blocks", "fewer blocks", fewer_blocks, every_budget=True),
    Arm("lower-resolution", "lower resolution", lower_resolution, every_budget=True),
    Arm("dynamicvit", "DynamicViT", dynamicvit, every_budget=True),
    Arm("evit", "EViT", evit, every_budget=True),
    Arm("tome", "ToMe, trained", tome, every_budget=True),
    Arm("tome-free", "ToMe, off the shelf", partial(tome, trained=False), every_budget=True),
    Arm("idlevit", "IdleViT", idlevit, every_budget=True),
    Arm("multi-1", "ToFe, one for all budgets, same steps as one", ours.tofe, together=True),
    Arm(
        "multi-3",
        "ToFe, one for all budgets, same steps as all",
        partial(ours.tofe, epochs=3),
        together=True,
    ),
)
