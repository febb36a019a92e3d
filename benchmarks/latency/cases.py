"""What is measured: models and budgets, the batches of each, and who stands against whom.

Memory and minutes set the limits: the rivals of other methods and of other sizes stand against DeiT-S at 224
px (of other sizes at one budget, which says as much as two), and batch 32 of the largest inputs is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PLAIN, DENSE, AGAIN = "plain", "dense", "dense again"
OURS = ("scatter", "concat")
ORACLE, STRAIGHT = "oracle", "straightforward"
METHODS = ("dynamicvit", "evit", "tome", "idlevit")
TINY = "deit_tiny"
SIZES = ("144 px", "160 px", "5 blocks", "6 blocks", TINY)
FEW = (PLAIN, DENSE, "scatter", ORACLE)
SIDES = (PLAIN, DENSE, *OURS, ORACLE, STRAIGHT, *METHODS, *SIZES)


@dataclass(frozen=True)
class Case:
    """One model at one budget."""

    name: str
    model: str
    budget_gmacs: float
    image_size: int = 224
    sides: tuple[str, ...] = (PLAIN, DENSE, *OURS, ORACLE, STRAIGHT)
    batches: tuple[int, ...] = (1, 8, 32)
    few_from: int = 64
    """The batch from which only FEW sides are measured: each takes seconds, and gigabytes."""
    one_thread: tuple[int, ...] = (1,)
    """Batches that are measured with one thread too."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the architecture besides the image size."""

    def sides_at(self, batch: int, only: Sequence[str] | None = None) -> list[str]:
        """The sides of a batch; plain and dense are always there, as everything is measured against them."""
        sides = [name for name in self.sides if batch < self.few_from or name in FEW]
        return sides if only is None else [name for name in sides if name in (PLAIN, DENSE, *only)]

    def batches_of(self, wanted: Sequence[int], threads: int) -> list[int]:
        """The batches among `wanted`; with one thread only some."""
        allowed = self.one_thread if threads == 1 else self.batches
        return [batch for batch in self.batches if batch in wanted and batch in allowed]


_S, _B, _LV = "deit_small_patch16_224", "deit_base_patch16_224", "lvvit_s"
CASES = (
    Case("deit_s-2.0", _S, 2.0, sides=SIDES, one_thread=(1, 8)),
    Case(
        "deit_s-2.3",
        _S,
        2.3,
        sides=(PLAIN, DENSE, *OURS, ORACLE, STRAIGHT, *METHODS),
    ),
    Case("deit_b-8.6", _B, 8.6, few_from=32),
    Case("lvvit_s-3.3", _LV, 3.3),
    # the share of the dense cost that DeiT-S at 2.0 spends; 518 px are 32 x 32 patches of 16
    Case("deit_s_384-6.7", _S, 6.7, 384, batches=(1, 8)),
    Case("deit_s_518-13.8", _S, 13.8, 518, batches=(1, 8), few_from=8),
)


def chosen(names: list[str]) -> tuple[Case, ...]:
    """The cases whose name is among `names`, or starts with one of them. Raises ValueError for others."""
    found = tuple(case for case in CASES if any(case.name.startswith(name) for name in names))
    wrong = [name for name in names if not any(case.name.startswith(name) for case in CASES)]
    if wrong:
        known = ", ".join(case.name for case in CASES)
        raise ValueError(f"expected cases out of {known} (or how they begin), found {', '.join(wrong)}")
    return found
