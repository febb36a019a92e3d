"""One training of the experiment, and the dense backbones that all others start from."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from accuracy.contender import Contender, Reading, Start, judged
from accuracy.controls import FewerBlocks
from accuracy.objectives import ClassObjective
from accuracy.settings import Size
from accuracy.tasks import MovedSamples, Task
from tofe_export.files import atomic_file
from tofe_export.model.backbone import Backbone, create_backbone
from tofe_export.training.loop import fit
from tofe_export.training.mixing import Mixing
from tofe_export.training.objective import Objective
from tofe_export.training.recipe import Recipe
from tofe_export.training.session import create_accelerator


def train(objective: Objective, recipe: Recipe, data: MovedSamples, classes: int) -> None:
    """Train in place; the student ends with the weights that count, in evaluation mode."""
    accelerator = create_accelerator(recipe)
    fitted = fit(objective, recipe, data, accelerator, mix=Mixing(recipe, classes))
    objective.student.load_state_dict(fitted.weights)
    objective.student.eval()


def fresh_backbone(size: Size, seed: int) -> Backbone:
    """The backbone with random weights drawn for `seed`; patches start at sine-cosine positions."""
    torch.manual_seed(seed)
    backbone = create_backbone(size.model, dict(size.arguments))
    with torch.no_grad():
        positions = cast(Tensor, backbone.vit.pos_embed)
        positions[:, backbone.prefix :] = waves(backbone.grid, backbone.width) / 2
    return backbone


def waves(grid: tuple[int, int], width: int) -> Tensor:
    """2-D sine-cosine positions (N, D): without them models this narrow hardly begin to learn."""
    frequencies = 10_000 ** (-torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in grid), indexing="ij")
    angles = torch.cat([place.flatten()[:, None] * frequencies for place in (columns, rows)], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def dense_backbone(size: Size, seed: int, task: Task, path: Path) -> Backbone:
    """The trained backbone of `seed`, from `path` if it is there."""
    backbone = fresh_backbone(size, seed)
    if path.exists():
        backbone.vit.load_state_dict(torch.load(path, weights_only=True))
        return backbone.eval()
    train(ClassObjective(backbone.vit), size.dense_recipe(seed), task.train, task.classes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        torch.save(backbone.vit.state_dict(), file)
    return backbone.cpu().eval()


def judge_dense(start: Start) -> list[Reading]:
    """The dense backbone on the test images."""
    return judged(FewerBlocks(start.backbone(), len(start.dense.blocks)), None, start.task)


def run(contender: Contender, start: Start) -> list[Reading]:
    """Train a contender, unless it needs none, and judge it."""
    if contender.objective is not None:
        train(contender.objective, contender.recipe, start.task.train, start.task.classes)
    return contender.judge()
