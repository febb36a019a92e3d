"""Learning rates and budgets by step, and which parameters they reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tofe_export.model.tofe import ToFe
from tofe_export.training.objective import Objective
from tofe_export.training.optimizer import create_optimizer, set_rates
from tofe_export.training.recipe import Recipe
from tofe_export.training.schedule import Length, Rates, budget_of, rates
from tofe_export.training.tofe_objective import ToFeObjective

LENGTH = Length(per_epoch=10, total=300)


def test_the_papers_schedule() -> None:
    recipe = Recipe()
    every = [rates(recipe, LENGTH, step) for step in range(300)]
    assert every[0] == Rates(1e-4, 0.0)
    assert every[299].modules == pytest.approx(2e-6)
    middle = 2e-6 + (1e-4 - 2e-6) * (1 + math.cos(math.pi * 150 / 299)) / 2
    assert every[150] == pytest.approx((middle, middle))
    assert [rate.backbone == 0 for rate in every] == [True] * 50 + [False] * 250
    falls = [rate.modules for rate in every]
    assert falls == sorted(falls, reverse=True)


def test_warm_up_is_linear_and_the_cosine_follows_it() -> None:
    recipe = Recipe(warmup_epochs=1, fixed_epochs=0, backbone_lr_scale=0.1)
    every = [rates(recipe, LENGTH, step) for step in range(300)]
    assert every[0].modules == pytest.approx(1e-4 / 11)
    assert every[4].modules == pytest.approx(5e-4 / 11)
    assert every[10].modules == 1e-4
    assert every[299].modules == pytest.approx(2e-6)
    assert all(rate.backbone == pytest.approx(0.1 * rate.modules) for rate in every)


@pytest.mark.parametrize("total", [1, 2])
def test_trainings_of_few_steps_have_rates(total: int) -> None:
    recipe, length = Recipe(warmup_epochs=3), Length(1, total)
    assert all(0 < rates(recipe, length, step).modules <= 1e-4 for step in range(total))


def test_epochs_are_counted_in_steps() -> None:
    assert LENGTH.epoch_of(25) == 2.5


def test_budgets_are_drawn_evenly_and_by_the_step_alone() -> None:
    recipe = Recipe(budgets=(1.0, 2.0, 3.0))
    drawn = [budget_of(recipe, step) for step in range(3000)]
    assert all(900 < drawn.count(budget) < 1100 for budget in recipe.budgets)
    assert [budget_of(recipe, step) for step in reversed(range(3000))] == drawn[::-1]
    assert [budget_of(Recipe(budgets=(1.0, 2.0, 3.0), seed=1), step) for step in range(3000)] != drawn
    assert budget_of(Recipe(budgets=(1.5,)), 7) == 1.5
    assert budget_of(Recipe(), 7) is None


def test_rates_and_decay_reach_the_right_parameters(make_student: Callable[..., ToFe]) -> None:
    model = make_student(conditioned=True)
    objective = ToFeObjective(model, Recipe(), model.backbone.num_classes)
    optimizer = create_optimizer(objective, Recipe(weight_decay=0.05))
    set_rates(optimizer, Rates(modules=3.0, backbone=2.0))
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = dict(model.named_parameters())
    assert set(found) == set(named.values())
    for name, parameter in named.items():
        rate = 2.0 if name.startswith("backbone.") else 3.0
        learned = name.endswith(("pos_embed", "cls_token"))
        assert found[parameter] == (rate, 0.0 if parameter.ndim == 1 or learned else 0.05), name
    assert sum(name.endswith("pos_embed") for name in named) == 1


def test_what_does_not_require_a_gradient_is_left_out() -> None:
    class Half(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.student = nn.Linear(2, 2)
            self.student.bias.requires_grad_(False)

        def forward(self, *_: Any) -> Any:
            raise AssertionError

    optimizer = create_optimizer(Half(), Recipe())
    assert [[p.shape for p in group["params"]] for group in optimizer.param_groups] == [[torch.Size((2, 2))]]
