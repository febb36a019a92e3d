"""Least squares for the bottleneck: what it can represent it finds, and noise it does not invent."""

from __future__ import annotations

import pytest
import torch

from tofe_export.fitting.approximators import bend, explained, fit, ridge, solve
from tofe_export.model.approximator import BottleneckApproximator

WIDTH = 16


def rows(count: int = 4000, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed)) + 1


def approximator() -> BottleneckApproximator:
    return BottleneckApproximator(WIDTH).requires_grad_(False)


def test_ridge_finds_a_linear_map_and_its_offset() -> None:
    x = rows().double()
    weight = torch.randn(WIDTH, 3, generator=torch.Generator().manual_seed(1)).double()
    found, bias = ridge(x, x @ weight + 5, penalty=0.0)
    assert torch.allclose(found, weight)
    assert torch.allclose(bias, torch.full((3,), 5.0, dtype=torch.float64))


def test_a_change_of_quarter_rank_is_recovered_exactly_by_the_closed_form() -> None:
    random = torch.Generator().manual_seed(2)
    low = torch.randn(WIDTH, WIDTH // 4, generator=random) @ torch.randn(WIDTH // 4, WIDTH, generator=random)
    x, made = rows(), approximator()
    later = x + x @ low / WIDTH + 2
    assert explained(made, x, later) == 0.0  # fresh ones are the identity
    solve(made, x, later)
    other = rows(seed=9)
    assert explained(made, other, other + other @ low / WIDTH + 2) > 0.999


def test_a_constant_change_goes_into_the_bias() -> None:
    x, made = rows(), approximator()
    solve(made, x, x + 3)
    assert torch.allclose(made(x), x + 3, atol=1e-3)


def test_what_cannot_be_predicted_is_not_invented() -> None:
    x, made = rows(), approximator()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    solve(made, x, x + noise)
    other = rows(seed=9)
    fresh = other + torch.randn(other.shape, generator=torch.Generator().manual_seed(4))
    assert abs(explained(made, other, fresh)) < 0.02


def test_bending_explains_more_of_a_curved_change_and_nothing_is_lost() -> None:
    x, made, random = rows(), approximator(), torch.Generator().manual_seed(0)
    later = x + torch.tanh(2 * x)
    found = fit(made, x, later, 200, random)
    assert found.final > found.closed_form + 0.01
    assert explained(made, x, later) == pytest.approx(found.final)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    bend(made, x, later, 5, random)
    assert all(value.equal(before[name]) for name, value in made.state_dict().items())


def test_without_frozen_rows_nothing_changes() -> None:
    made = approximator()
    nothing = torch.zeros(0, WIDTH)
    assert fit(made, nothing, nothing, 10, torch.Generator()) == (0.0, 0.0)
    x = rows(5)
    assert made(x).equal(x)
