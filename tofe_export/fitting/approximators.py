"""Approximators by least squares: x + W2 GELU(W1 x + b1) + b2 against what the dense model made of x.

First the best linear map of half the rank, in closed form: ridge regression of the change on x, and the
directions in which its prediction varies most. GELU(z) - GELU(-z) = z, so each direction takes a pair of
hidden units, D/2 units hold D/4 directions, and the pair's even part is a free nonlinear feature. With W1
fixed so, W2 and b2 are a second ridge regression. A few hundred steps of Adam on the rows then bend W1; what
both explain is part of the report. (Directions without regard to the change explain far less.)

Shapes: n rows, D width, H = D/2 hidden units.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from tofe_export.model.approximator import BottleneckApproximator

RIDGE = 1e-3  # share of the mean variance
RATE, BATCH = 2e-3, 512


class Explained(NamedTuple):
    """Share of the squared change of the frozen tokens that comes back; 0 is the identity."""

    closed_form: float
    final: float


def fit(
    approximator: BottleneckApproximator, rows: Tensor, later: Tensor, steps: int, generator: torch.Generator
) -> Explained:
    """Fit in place from rows (n, D) to later (n, D); without rows nothing is frozen and nothing changes."""
    if not len(rows):
        return Explained(0.0, 0.0)
    solve(approximator, rows, later)
    first = explained(approximator, rows, later)
    bent = bend(approximator, rows, later, steps, generator)
    final = explained(bent, rows, later)
    if final > first:
        approximator.load_state_dict(bent.state_dict())
    return Explained(first, max(first, final))


@torch.no_grad()
def solve(approximator: BottleneckApproximator, rows: Tensor, later: Tensor) -> None:
    """The closed form, in place."""
    x, change = rows.double(), (later - rows).double()
    mean = x.mean(dim=0)
    directions = _directions(x - mean, change - change.mean(dim=0), approximator.fc1.out_features)
    approximator.fc1.weight.copy_(directions.T)
    approximator.fc1.bias.copy_(-(mean @ directions))
    hidden = functional.gelu((x - mean) @ directions)
    weight, bias = ridge(hidden, change)
    approximator.fc2.weight.copy_(weight.T)
    approximator.fc2.bias.copy_(bias)


def ridge(x: Tensor, y: Tensor, penalty: float = RIDGE) -> tuple[Tensor, Tensor]:
    """Weight (a, b) and bias (b,) of the regression of y (n, b) on x (n, a)."""
    mean_x, mean_y = x.mean(dim=0), y.mean(dim=0)
    centred = x - mean_x
    gram = centred.T @ centred
    gram.diagonal().add_(penalty * gram.diagonal().mean().clamp(min=1e-12))
    weight = torch.linalg.solve(gram, centred.T @ (y - mean_y))
    return weight, mean_y - mean_x @ weight


def bend(
    approximator: BottleneckApproximator, rows: Tensor, later: Tensor, steps: int, generator: torch.Generator
) -> BottleneckApproximator:
    """A copy after `steps` of Adam on random rows."""
    pupil = copy.deepcopy(approximator).requires_grad_(True)
    if not steps:
        return pupil
    optimizer = torch.optim.Adam(pupil.parameters(), lr=RATE)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    unit = (later - rows).square().mean().clamp(min=1e-12)  # so that the rate suits every scale
    with torch.enable_grad():
        for _ in range(steps):
            chosen = torch.randint(len(rows), (BATCH,), generator=generator).to(rows.device)
            loss = functional.mse_loss(pupil(rows[chosen]), later[chosen]) / unit
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plan.step()
    return pupil.requires_grad_(False)


@torch.no_grad()
def explained(approximator: BottleneckApproximator, rows: Tensor, later: Tensor) -> float:
    """1 - the squared error that is left, as a share of the identity's."""
    left = (approximator(rows) - later).square().sum()
    return 1 - float(left / (later - rows).square().sum().clamp(min=1e-12))


def _directions(x: Tensor, change: Tensor, hidden: int) -> Tensor:
    """(D, H): of the map that predicts the change best, the strongest directions, in pairs of both signs."""
    weight, _ = ridge(x, change)
    predicted = x @ weight
    _, vectors = torch.linalg.eigh(predicted.T @ predicted)  # ascending
    found = weight @ vectors.flip(dims=(1,))[:, : (hidden + 1) // 2]
    found = found / (x @ found).square().mean(dim=0).sqrt().clamp(min=1e-12)
    return torch.cat([found, -found], dim=1)[:, :hidden]
