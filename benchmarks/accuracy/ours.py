"""ToFe and its ablations as contenders. Shapes: S stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from accuracy.contender import Contender, Reading, Start, correct_of
from accuracy.controls import scaled_profile
from accuracy.rivals.reduced import nearest
from accuracy.tasks import Task
from tofe_export.budget import gmacs, macs
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.masked import Masked, above, masked_forward
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.training.batch import Batch
from tofe_export.training.loading import in_order
from tofe_export.training.losses import cost_per_image
from tofe_export.training.recipe import Recipe
from tofe_export.training.settle import Settled, settle
from tofe_export.training.tofe_objective import ToFeObjective

_BATCH = 250  # images measured at once


def tofe(
    start: Start,
    budgets: Sequence[float],
    structure: dict[str, Any] | None = None,
    epochs: int = 1,
    **changes: Any,  # noqa: ANN401 - fields of the recipe
) -> Contender:
    """ToFe at `budgets` in GMACs, `epochs` times as long as the others; several budgets are conditioned."""
    model = _model(start, conditioned=len(budgets) > 1, **(structure or {}))
    size = start.size
    recipe = size.fine_tuning(
        "tofe",
        start.seed,
        budgets=tuple(budgets),
        epochs=epochs * size.epochs,
        fixed_epochs=epochs * size.waiting(),
        **changes,
    )
    return _contender(start, model, recipe, tuple(budgets))


def fixed_ratios(start: Start, budgets: Sequence[float]) -> Contender:
    """ToFe with Table V's fixed ratios, scaled to the budget."""
    model = _model(start)
    (budget,) = budgets
    cost = model.cost()
    plans = sorted({scaled_profile(cost.tokens, part / 1000) for part in range(1, 8001)})
    keep = nearest(plans, lambda plan: macs(cost, plan), budget * 1e9)
    recipe = start.size.fine_tuning(
        "tofe",
        start.seed,
        ratios=tuple(count / cost.tokens for count in keep),
        fixed_epochs=start.size.waiting(),
    )
    return _contender(start, model, recipe, (budget,))


def _model(start: Start, **structure: Any) -> ToFe:  # noqa: ANN401 - fields of the structure
    backbone = start.backbone()
    torch.manual_seed(start.seed)  # the selectors' weights
    return ToFe(backbone, Structure(backbone.locations, **structure))


def _contender(start: Start, model: ToFe, recipe: Recipe, budgets: tuple[float, ...]) -> Contender:
    objective = ToFeObjective(model, recipe, start.task.classes)
    return Contender(recipe, lambda: _judge(model, recipe, budgets, start.task), objective)


def _judge(model: ToFe, recipe: Recipe, budgets: tuple[float, ...], task: Task) -> list[Reading]:
    model.eval()
    measured: list[Batch] = list(in_order(task.measured, _BATCH))
    readings = []
    for budget, settled in zip(budgets, settle(model, recipe, measured, measured), strict=True):
        model.set_budget(budget if recipe.budgets else None)
        readings += [_static(model, budget, settled, task), _adaptive(model, budget, settled, task)]
    return readings


def _static(model: ToFe, budget: float, settled: Settled, task: Task) -> Reading:
    freezer, keep = StaticFreezer(settled.row.keep), settled.row.keep
    correct = correct_of(_on_device(model, lambda images: model(images, freezer)), task.test)
    sampled = {"gmacs": settled.sampled.gmacs_mean, "kept": list(settled.sampled.keep_mean)}
    price = gmacs(macs(model.cost(), keep))
    return Reading("static", budget, price, tuple(map(float, keep)), correct, {"sampled": sampled})


def _adaptive(model: ToFe, budget: float, settled: Settled, task: Task) -> Reading:
    assert settled.row.thresholds is not None  # just calibrated
    choose, cost = above(settled.row.thresholds), model.cost()
    prices: list[Tensor] = []
    kept: list[Tensor] = []

    def predict(images: Tensor) -> Tensor:
        masked: Masked = masked_forward(model, images, choose)
        masks = [stage.mask for stage in masked.stages]
        prices.append(cost_per_image(cost, masks).cpu())
        kept.append(torch.stack([mask.sum(dim=1) for mask in masks], dim=1).cpu())
        return masked.output

    correct = correct_of(_on_device(model, predict), task.test)
    counts = torch.cat(kept).mean(dim=0).tolist()
    return Reading("adaptive", budget, float(torch.cat(prices).mean()) / 1e9, tuple(counts), correct)


def _on_device(model: ToFe, predict: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    device = next(model.parameters()).device
    return lambda images: predict(images.to(device))
