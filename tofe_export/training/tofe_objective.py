"""ToFe's training objective: Eq. 15 on the masked forward, per micro-batch.

    lambda_cls * cls + lambda_apr * apr + lambda_budget * budget   (+ distill, + multiplier * relative error)

The budget term compares the mean cost of the images, stem, modules and head included, with the budget of the
step (decisions 12-14 of token_reduction 3.2). A squared penalty settles a little off its target: by the slope
of the other losses over twice its weight. Where that matters, a Lagrange multiplier per budget integrates the
error until nothing is left of it (`budget_control="multiplier"`).

With fixed keep ratios instead of a learned allocation (Table V) the same weight pulls each stage's share to
its ratio, so that only the allocation differs between the two.

Under gradient accumulation "the mean cost" is that of a micro-batch over all processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from tofe_export.budget import dense_macs, printed
from tofe_export.errors import InputError, UsageError
from tofe_export.model.masked import Masked, masked_forward, sampled
from tofe_export.model.selector import MlpSelector
from tofe_export.model.tofe import ToFe
from tofe_export.training import losses
from tofe_export.training.batch import Batch, Step
from tofe_export.training.losses import Mean, Reduce, identity
from tofe_export.training.objective import Objective, Terms
from tofe_export.training.recipe import Recipe
from tofe_export.training.teacher import Taught, Teacher

_MULTIPLIER = "multiplier "  # how its entries in the state begin; a printed budget follows


class ToFeObjective(Objective):
    """Trains `model` as `recipe` says; its backbone as it is now becomes the teacher.

    `reduce` averages a detached tensor over all processes.

    Raises:
        InputError: the model does not predict `num_classes` classes.
        UsageError: ratios or budgets that do not fit the model.
    """

    student: ToFe

    def __init__(self, model: ToFe, recipe: Recipe, num_classes: int, reduce: Reduce = identity) -> None:
        super().__init__()
        _check(model, recipe, num_classes)
        self.student, self.recipe, self.reduce = model, recipe, reduce
        self.cost = model.cost()
        self.dense_macs = dense_macs(self.cost)
        self.multipliers: dict[str, float] = {}  # by printed budget
        self.teacher = _teacher(model, recipe)
        if recipe.keep_bias:
            start_dense(model, recipe.keep_bias)

    def forward(self, batch: Batch, step: Step) -> Terms:
        """Loss terms "cls", "apr", "distill", "budget" and "multiplier", as far as the recipe has them.

        Logs: "gmacs"; "keep_1".."keep_S", shares of N; "raw_<term>", each term without its weight;
        "raw_budget_batch" and "raw_budget_sample", both means of the squared budget error.
        """
        recipe = self.recipe
        self.student.set_budget(step.budget_gmacs)
        masked = masked_forward(self.student, batch.images, sampled(batch.noise, recipe.tau))
        taught = self.teacher(batch.images) if self.teacher else Taught([], None)
        raw = {"cls": losses.classification_loss(masked.output, batch.targets)}
        weights = {"cls": recipe.lambda_cls}
        if taught.tokens:
            raw["apr"] = losses.approximation_loss(masked.stages, taught.tokens)
            weights["apr"] = recipe.lambda_apr
        if taught.output is not None:
            raw["distill"] = losses.distillation_loss(masked.output, taught.output)
            weights["distill"] = recipe.distill
        macs = losses.cost_per_image(self.cost, _masks(masked))
        weighted = {name: weights[name] * value for name, value in raw.items()}
        budget, logs = self._budget(masked, macs, step.budget_gmacs)
        logs |= {f"raw_{name}": value.detach() for name, value in raw.items()}
        return Terms(weighted | budget, logs | _observed(masked, macs))

    def _budget(
        self, masked: Masked, macs: Tensor, budget: float | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weighted terms of budget or ratios, and their logs."""
        recipe, weight, mean = self.recipe, self.recipe.budget_weight, cast(Mean, self.recipe.budget_mean)
        if recipe.ratios:
            raw = losses.ratio_loss(_masks(masked), recipe.ratios, mean, self.reduce)
            return {"budget": weight * raw}, {"raw_budget": raw.detach()}
        if budget is None:
            return {}, {}
        unit = self.dense_macs if recipe.budget_unit == "ratio" else 1e9
        errors = losses.budget_errors(macs, budget, unit)
        terms = {"budget": weight * losses.budget_loss(errors, mean, self.reduce)}
        logs = {
            "raw_budget_batch": losses.budget_loss(errors.detach(), "batch", self.reduce),
            "raw_budget_sample": losses.budget_loss(errors.detach(), "sample"),
        }
        if recipe.budget_control == "multiplier":
            multiplier = self.multipliers.get(printed(budget), 0.0)
            relative = losses.budget_errors(macs, budget, self.dense_macs).mean()
            terms["multiplier"] = multiplier * losses.global_mean(relative, self.reduce)
            logs["multiplier"] = relative.new_tensor(multiplier)
        return terms, logs

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Selectors and approximators as "modules"; the "backbone" is all the rest."""
        modules = [*self.student.selectors.parameters(), *self.student.approximators.parameters()]
        return {"modules": modules, "backbone": list(self.student.backbone.parameters())}

    def state(self) -> dict[str, float]:
        """The multipliers."""
        return {_MULTIPLIER + budget: value for budget, value in self.multipliers.items()}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take back what `state` returned."""
        self.multipliers = {key.removeprefix(_MULTIPLIER): value for key, value in state.items()}

    def after_step(self, means: Mapping[str, float], step: Step) -> None:
        """Move the multiplier of the step's budget by rate * weight * relative error.

        The weight is that of a *relative* squared error, whatever unit the budget loss has: one rate then
        means the same for every model. The multiplier stays within the weight, where it pulls like the
        squared loss does at a relative error of one half: a long way to the budget must not wind it up.
        """
        recipe, budget = self.recipe, step.budget_gmacs
        if recipe.budget_control != "multiplier" or recipe.ratios or budget is None:
            return
        weight = recipe.budget_weight
        if recipe.budget_unit == "gmacs":
            weight *= (self.dense_macs / 1e9) ** 2
        error = (means["gmacs"] - budget) * 1e9 / self.dense_macs
        key = printed(budget)
        moved = self.multipliers.get(key, 0.0) + recipe.multiplier_rate * weight * error
        self.multipliers[key] = max(-weight, min(moved, weight))


def start_dense(model: ToFe, keep_bias: float) -> None:
    """Set every selector's last bias so that its initial log-odds of keeping a token are `keep_bias`."""
    with torch.no_grad():
        for selector in model.selectors:
            bias = cast(MlpSelector, selector).fc3.bias
            bias.copy_(bias.new_tensor([keep_bias / 2, -keep_bias / 2]))


def _check(model: ToFe, recipe: Recipe, num_classes: int) -> None:
    found = model.backbone.num_classes
    if found != num_classes:
        raise InputError(
            f"the model predicts {found} classes, the training needs {num_classes}: give a backbone that "
            "was trained on these classes"
        )
    if recipe.ratios and len(recipe.ratios) != model.stages:
        raise UsageError(
            f"expected {model.stages} keep ratios, one per selection, found {len(recipe.ratios)}: "
            f"{', '.join(map(str, recipe.ratios))}"
        )


def _teacher(model: ToFe, recipe: Recipe) -> Teacher | None:
    """A teacher as far as one is needed."""
    recovers = model.structure.reuse and recipe.lambda_apr > 0
    locations: Sequence[int] = model.structure.locations[1:] if recovers else ()
    if not locations and recipe.distill == 0:
        return None
    return Teacher(model.backbone, locations, output=recipe.distill > 0)


def _masks(masked: Masked) -> list[Tensor]:
    return [stage.mask for stage in masked.stages]


def _observed(masked: Masked, macs: Tensor) -> dict[str, Tensor]:
    """Mean cost, and the kept share of N per stage, detached."""
    shares = {f"keep_{s}": mask.detach().float().mean() for s, mask in enumerate(_masks(masked), start=1)}
    return {"gmacs": macs.detach().mean() / 1e9} | shares
