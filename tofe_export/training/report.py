"""What the loop tells after each optimiser step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class StepReport(NamedTuple):
    """One optimiser step, after it was made. Values are means over micro-batches and processes."""

    step: int
    """Steps done, this one included."""
    steps: int
    """Steps of the whole training."""
    epoch: float
    """Epochs done, this step included."""
    lr: float
    lr_backbone: float
    budget_gmacs: float | None
    loss: float
    """Sum of the terms."""
    losses: Mapping[str, float]
    """The weighted terms."""
    logs: Mapping[str, float]
    """What the objective reports besides: "gmacs", "keep_1" .. "keep_S", ..."""
    grad_norm: float
    """Before clipping."""
    images_per_s: float
    unreadable: int
    """Different images that could not be read so far."""

    def to_json(self) -> dict[str, Any]:
        """Plain data: the logs beside the other numbers, the losses nested; None for what is not finite."""
        line = self._asdict() | {"losses": dict(self.losses)}
        del line["logs"]
        return {key: _finite(value) for key, value in (line | dict(self.logs)).items()}


def _finite(value: Any) -> Any:  # noqa: ANN401 - plain data
    return None if isinstance(value, float) and not math.isfinite(value) else value
