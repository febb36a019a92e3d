"""What a training minimises, apart from how: the loop knows nothing of ToFe, the objective nothing of steps.

An objective is the module that accelerate wraps: its `forward` computes the loss terms of one micro-batch, so
that gradients are synchronised whatever the model's own forward is.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from tofe_export.training.batch import Batch, Step


class Terms(NamedTuple):
    """Loss terms of one micro-batch, and what else is worth logging."""

    losses: Mapping[str, Tensor]
    """Weighted scalar terms; their sum is minimised."""
    logs: Mapping[str, Tensor]
    """Detached scalars, means over the micro-batch: "gmacs", "keep_1" .. "keep_S" (share of N), ..."""


class Objective(nn.Module, ABC):
    """Holds the model that is trained (the student) and all that its loss needs."""

    student: nn.Module
    """What is trained, averaged (EMA) and saved. Whatever else an objective holds is not its sub-module."""

    @abstractmethod
    def forward(self, batch: Batch, step: Step) -> Terms:
        """Loss terms of one micro-batch."""

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """Parameters in learning-rate groups: "modules" (trained from the start) and "backbone"."""
        return {"modules": [], "backbone": list(self.student.parameters())}

    def state(self) -> dict[str, float]:
        """Plain numbers besides the student's weights that a resumed run needs (multipliers)."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take back what `state` returned."""

    def after_step(self, means: Mapping[str, float], step: Step) -> None:
        """Called once per optimiser step with the logs' means over micro-batches and processes."""
