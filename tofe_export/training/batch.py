"""What travels from the data to the objective. Shapes: B images, S stages, N patch tokens, C classes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One micro-batch of one process."""

    images: Tensor
    """(B, 3, H, W) float32, augmented, mixed and normalised."""
    targets: Tensor
    """(B,) class indices, or (B, C) probabilities after mixing or label smoothing."""
    indices: Tensor
    """(B,) which sample of the data set each image is; -1 - index where it replaces an unreadable one."""
    noise: Tensor
    """(B, S, N) standard logistic noise for the masks: the difference of two Gumbel draws (Eq. 9)."""


class Step(NamedTuple):
    """Where the training is."""

    done: int
    """Optimiser steps before this one."""
    epoch: float
    """Epochs done, with fraction."""
    budget_gmacs: float | None
    """The budget of this step; None for a training without budget."""
