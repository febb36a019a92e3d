"""Pictures of a stream as the model's own tensors, with the noise that sampling needs.

The noise is keyed by a picture's position, as in training, so equal pictures give equal counts. Shapes: B
images in a batch, S stages, N patch tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tofe_export.calibration.stream import ImageStream
from tofe_export.model.tofe import ToFe
from tofe_export.training.batch import Batch
from tofe_export.training.seeding import NOISE, logistic


def nothing(count: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Tensors:
    """Batches (B, 3, H, W) float32 on the model's device; may be gone through again and again."""

    stream: ImageStream
    model: ToFe
    advance: Callable[[int], None] = nothing
    """Called with the number of pictures that were just read."""

    def __iter__(self) -> Iterator[Tensor]:
        device = next(self.model.parameters()).device
        for images in self.stream:
            self.advance(len(images))
            yield torch.from_numpy(images).to(device)

    def drawn(self, seed: int) -> Iterator[Batch]:
        """The same as batches with noise (B, S, N), and without labels."""
        shape, start = (self.model.stages, self.model.backbone.tokens), 0
        for images in self:
            indices = torch.arange(start, start + len(images))
            noise = torch.stack([logistic(shape, NOISE, seed, 0, index) for index in indices.tolist()])
            yield Batch(images, torch.zeros_like(indices), indices, noise)
            start += len(images)
