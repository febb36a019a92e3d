"""Training on the class loss alone, and the teacher whose last tokens some neighbours look at."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tofe_export.model.backbone import Backbone
from tofe_export.training.batch import Batch, Step
from tofe_export.training.losses import classification_loss
from tofe_export.training.objective import Objective, Terms


class ClassObjective(Objective):
    """Cross-entropy of a model that turns images into logits."""

    def __init__(self, model: nn.Module, run: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.student = model
        self._run = run or model

    def forward(self, batch: Batch, step: Step) -> Terms:
        """The term "cls"."""
        return Terms({"cls": classification_loss(self._run(batch.images), batch.targets)}, {})


class LastTokens:
    """A frozen copy of a backbone that gives its final-normed tokens; no sub-module of anything."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = copy.deepcopy(backbone).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Final-normed tokens (B, P + N, D) and logits (B, C) of images (B, 3, H, W)."""
        backbone = self.backbone.to(images.device)
        x = backbone.embed(images)
        for block in backbone.blocks:
            x = block(x)
        x = backbone.final_norm(x)
        return x, backbone.head(x)
