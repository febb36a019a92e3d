"""A backbone from scratch, for tests of the mechanism: the same loop as ToFe's, with the plain model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from tofe_export.model.backbone import Backbone
from tofe_export.training.batch import Batch, Step
from tofe_export.training.loop import fit
from tofe_export.training.losses import classification_loss
from tofe_export.training.mixing import Mixing
from tofe_export.training.objective import Objective, Terms
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import Samples
from tofe_export.training.session import create_accelerator


class DenseObjective(Objective):
    """Cross-entropy of a backbone without freezing."""

    student: Backbone

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.student = backbone

    def forward(self, batch: Batch, step: Step) -> Terms:
        """The term "cls"."""
        return Terms({"cls": classification_loss(self.student.dense(batch.images), batch.targets)}, {})


@torch.no_grad()
def draw(backbone: Backbone, seed: int) -> None:
    """Draw all weights so that a small model learns at once: variance 1 / fan-in, tokens and positions 1.

    timm's 0.02 suits widths of hundreds. At a width of 48 it makes tokens nearly equal to one another, and
    attention takes thousands of steps to find out where it looks.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in backbone.vit.named_parameters():
        if name.endswith(("_token", "pos_embed")):
            parameter.normal_(generator=generator)
        elif parameter.ndim >= 2:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
        elif name.endswith("bias"):
            parameter.zero_()  # torch draws some of them from the global generator


def train_dense(backbone: Backbone, samples: Samples, recipe: Recipe, *, cpu: bool = False) -> Backbone:
    """Train a backbone in place, where accelerate finds a device; the recipe's budgets are ignored."""
    accelerator = create_accelerator(recipe, cpu=cpu)
    mix = Mixing(recipe, backbone.num_classes)
    alone = replace(recipe, budgets=(), ratios=(), fixed_epochs=0)
    fitted = fit(DenseObjective(backbone), alone, samples, accelerator, mix=mix)
    backbone.load_state_dict(fitted.weights)
    return backbone.cpu().eval()


def save_weights(backbone: Backbone, path: Path) -> None:
    """Write plain weights with the architecture's official keys, as `--backbone` takes them."""
    torch.save(backbone.vit.state_dict(), path)
