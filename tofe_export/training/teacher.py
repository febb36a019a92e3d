"""The teacher: the original backbone as it was before training, for Eq. 10 and optional distillation.

It sees the same augmented and mixed images as the student (decision 26 of token_reduction 3.2), in evaluation
mode and without gradients, and stops at the input of block l_S: nothing later is recovered. Only when its
logits are wanted does it run to the end. It is no `nn.Module`, so that no objective that holds one trains it,
saves it or has it synchronised. Shapes: B images, N patch tokens, D width, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tofe_export.model.backbone import Backbone


class Taught(NamedTuple):
    """What the teacher says about a batch."""

    tokens: list[Tensor]
    """(B, N, D) patch tokens at the inputs of the blocks asked for, before any norm."""
    output: Tensor | None
    """(B, C) logits, if asked for."""


class Teacher:
    """A frozen copy of `backbone`, which later training does not touch.

    `locations` are the increasing blocks (0-based) whose inputs are taught: l_2..l_S, or none.
    """

    def __init__(self, backbone: Backbone, locations: Sequence[int], *, output: bool = False) -> None:
        self.backbone = copy.deepcopy(backbone).eval().requires_grad_(False)
        self.locations, self.output = tuple(locations), output

    def __call__(self, images: Tensor) -> Taught:
        """Teach images (B, 3, H, W); follows them to their device."""
        backbone = self.backbone.to(images.device)
        tokens: list[Tensor] = []
        with torch.no_grad():
            x = backbone.embed(images)
            for index, block in enumerate(backbone.blocks):
                if index in self.locations:
                    tokens.append(x[:, backbone.prefix :])
                if not self.output and len(tokens) == len(self.locations):
                    return Taught(tokens, None)
                x = block(x)
            return Taught(tokens, backbone.head(backbone.final_norm(x)))
