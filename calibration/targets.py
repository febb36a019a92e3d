"""A budget as calibration needs it: what an export would take now, and which counts it allows.

Budgets come in GMACs, or in milliseconds on a device whose latencies were measured (`latency`). The search
for better counts asks only one thing of a budget, to make counts of a profile, so it serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tofe_export.budget import Cost, gmacs, macs, printed
from tofe_export.keep import Measured, Plan, fill, fill_budget, solve

if TYPE_CHECKING:
    from tofe_export.latency.predict import Predictor

Keep = tuple[int, ...]
Fill = Callable[[Sequence[int]], Keep]
"""A profile of S positive integers -> the largest counts of these proportions within the budget."""


@dataclass(frozen=True)
class Target:
    """One budget."""

    name: str
    """As people read it."""
    plan: Plan
    """What would be exported for it now."""
    fill: Fill
    learned: bool
    """Whether the plan's proportions come from the checkpoint's table."""
    in_gmacs: bool = True
    """Whether the budget is one of GMACs, the same for all counts."""

    def budget_gmacs(self, cost: Cost, keep: Keep) -> float:
        """Under which budget in GMACs a table lists these counts: this one, or for a latency their own."""
        return self.plan.budget_gmacs if self.in_gmacs else float(printed(gmacs(macs(cost, keep))))

    @classmethod
    def of_budget(cls, cost: Cost, budget_gmacs: float, table: Sequence[Measured], align: int = 1) -> Target:
        """A budget in GMACs. Raises BudgetError where it is out of reach."""
        plan = solve(cost, budget_gmacs, table, align)

        def within(profile: Sequence[int]) -> Keep:
            return fill_budget(cost, profile, budget_gmacs, align)

        return cls(f"{printed(budget_gmacs)} GMACs", plan, within, bool(table))

    @classmethod
    def of_latency(
        cls, predictor: Predictor, budget_ms: float, table: Sequence[Measured], align: int = 1
    ) -> Target:
        """A budget in milliseconds per run. Raises BudgetError where the latencies do not reach it."""
        from tofe_export.latency.solve import solve_ms

        plan = solve_ms(predictor, budget_ms, table, align)
        least, most = predictor.least, predictor.most
        ends = (-(-least // align) * align, most // align * align)  # solve_ms found some in between

        def within(profile: Sequence[int]) -> Keep:
            fits: Callable[[Keep], bool] = lambda keep: predictor.ms(keep) <= budget_ms  # noqa: E731
            return fill(predictor.entry.cost, profile, fits, align, ends)

        learned = any(least <= min(row.keep) <= max(row.keep) <= most for row in table)
        return cls(f"{budget_ms:g} ms", plan, within, learned, in_gmacs=False)
