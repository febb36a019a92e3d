"""What takes part in the experiment: something to train, and how it is judged afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from accuracy.rivals.reduced import Reduced
from accuracy.settings import Size
from accuracy.tasks import Arrays, Task
from tofe_export.model.backbone import Backbone
from tofe_export.training.objective import Objective
from tofe_export.training.recipe import Recipe

_BATCH = 250  # images judged at once


@dataclass(frozen=True)
class Reading:
    """How good a trained model is at one price."""

    mode: str
    """"static": the same counts for every image; "adaptive": each image for itself."""
    budget_gmacs: float | None
    """What was asked for."""
    gmacs: float
    """What it costs, mean over test images, in the paper's account."""
    kept: tuple[float, ...]
    """Tokens that remain after each reduction."""
    correct: Tensor
    """(n,) bool, per test image."""
    more: dict[str, Any] = field(default_factory=dict)
    """Plain data worth keeping."""

    @property
    def accuracy(self) -> float:
        """Share of test images."""
        return float(self.correct.double().mean())


class Start(NamedTuple):
    """Where a contender begins: the trained dense backbone of a seed, and what it may use."""

    dense: Backbone
    size: Size
    seed: int
    task: Task

    def backbone(self) -> Backbone:
        """A fresh copy of the dense backbone."""
        return copy.deepcopy(self.dense)


@dataclass(frozen=True)
class Contender:
    """A model before its training; without objective it is judged as it is."""

    recipe: Recipe
    judge: Callable[[], list[Reading]]
    objective: Objective | None = None


def judged(model: Reduced, budget_gmacs: float | None, task: Task) -> list[Reading]:
    """A neighbour or control on the test images."""
    model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    correct = correct_of(model, task.test)
    return [Reading("static", budget_gmacs, model.macs() / 1e9, tuple(map(float, model.kept())), correct)]


@torch.inference_mode()
def correct_of(predict: Callable[[Tensor], Tensor], test: Arrays) -> Tensor:
    """Which test images `predict` gives their label: (n,) bool."""
    device = getattr(next(iter(getattr(predict, "parameters", list)()), None), "device", "cpu")
    rows = [
        predict(images.to(device)).argmax(dim=1).cpu() == labels
        for images, labels in zip(test.images.split(_BATCH), test.labels.split(_BATCH), strict=True)
    ]
    return torch.cat(rows)
