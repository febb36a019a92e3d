"""Means of loss terms and logs over the micro-batches and processes of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from tofe_export.training.objective import Terms


class Means(NamedTuple):
    """What a step's `Terms` came to."""

    losses: dict[str, float]
    logs: dict[str, float]


class Meter:
    """Sums up on the device; only `means` waits for it."""

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        self._reduce = reduce
        self._rows: list[Tensor] = []
        self._losses: list[str] = []
        self._logs: list[str] = []

    def add(self, terms: Terms) -> None:
        """Take in one micro-batch; all have the same names."""
        self._losses, self._logs = list(terms.losses), list(terms.logs)
        values = [*terms.losses.values(), *terms.logs.values()]
        self._rows.append(torch.stack([value.detach().float() for value in values]))

    def means(self) -> Means:
        """Means of all that was added, over all processes; the same in each of them."""
        values = self._reduce(torch.stack(self._rows).mean(0)).tolist()
        losses, logs = values[: len(self._losses)], values[len(self._losses) :]
        return Means(dict(zip(self._losses, losses, strict=True)), dict(zip(self._logs, logs, strict=True)))
