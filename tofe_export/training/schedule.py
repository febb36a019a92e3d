"""What changes from step to step, each a function of the step's index alone: a resumed run repeats it.

The learning rate of selectors and approximators falls from `lr` at the first step to `min_lr` at the last one
along half a cosine, after a linear warm-up where asked for. The backbone's is 0 while it is fixed, then
`backbone_lr_scale` times theirs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from tofe_export.training.recipe import Recipe
from tofe_export.training.seeding import BUDGET, words


class Rates(NamedTuple):
    """Learning rates of one step, by parameter group (`Objective.groups`)."""

    modules: float
    backbone: float


class Length(NamedTuple):
    """How long a training is, in optimiser steps."""

    per_epoch: int
    total: int

    def epoch_of(self, step: int) -> float:
        """Epochs done before `step`, with fraction."""
        return step / self.per_epoch


def rates(recipe: Recipe, length: Length, step: int) -> Rates:
    """Learning rates of `step` (0-based)."""
    modules = _warmup(recipe, length, step) * _cosine(recipe, length, step)
    fixed = step < recipe.fixed_epochs * length.per_epoch
    return Rates(modules, 0.0 if fixed else recipe.backbone_lr_scale * modules)


def _cosine(recipe: Recipe, length: Length, step: int) -> float:
    start = _warmup_steps(recipe, length)
    done = max(0, step - start) / max(1, length.total - 1 - start)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * done)) / 2


def _warmup(recipe: Recipe, length: Length, step: int) -> float:
    steps = _warmup_steps(recipe, length)
    return min(1.0, (step + 1) / (steps + 1))


def _warmup_steps(recipe: Recipe, length: Length) -> int:
    return min(round(recipe.warmup_epochs * length.per_epoch), length.total - 1)


def budget_of(recipe: Recipe, step: int) -> float | None:
    """The budget of `step` in GMACs: drawn evenly from the recipe's, None where it has none."""
    if not recipe.budgets:
        return None
    if len(recipe.budgets) == 1:
        return recipe.budgets[0]
    return recipe.budgets[int(words(1, BUDGET, recipe.seed, step)[0]) % len(recipe.budgets)]
