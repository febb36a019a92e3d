"""What to expect of budgets on a device, and whether to bother: read from a latency table, before training.

The advice is as plain as the evidence allows. Below 5 % nothing is gained that would pay for training and a
loss of accuracy: ship the dense model. A table that was measured on a noisy machine (the dense model differed
from itself by more than 3 %) cannot tell 5 % from nothing, and the advice says that instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tofe_export.bench.comparison import NOISE_LIMIT
from tofe_export.budget import dense_macs, gmacs, macs_executed, printed
from tofe_export.errors import BudgetError
from tofe_export.keep import Plan, solve
from tofe_export.latency.predict import OutsideTable, Predictor
from tofe_export.latency.solve import solve_ms
from tofe_export.latency.table import Entry

WORTH = 0.05
"""The least gain that is worth a reduced model."""
_SHARES = (0.85, 0.7, 0.55, 0.45, 0.35)  # budgets to look at where none is named, of the dense cost

DENSE, REDUCED, UNKNOWN = "dense", "reduced", "unknown"

Facts = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One budget. What the table does not reach has no latency."""

    budget_gmacs: float
    keep: tuple[int, ...]
    gmacs_executed: float
    mac_ratio: float  # executed MACs, dense over this
    ms: float | None  # per run
    speedup: float | None  # dense over this

    @property
    def worth(self) -> bool | None:
        """Whether the gain reaches 5 %; None where nothing is predicted."""
        return None if self.speedup is None else self.speedup >= 1 + WORTH


@dataclass(frozen=True)
class Advice:
    """All budgets of one entry, and what follows."""

    entry: Entry
    rows: tuple[Row, ...]

    @property
    def ship(self) -> str:
        """DENSE, REDUCED, or UNKNOWN where the table cannot tell."""
        known = [row for row in self.rows if row.speedup is not None]
        if not known or self.entry.noise > NOISE_LIMIT:
            return UNKNOWN
        return REDUCED if any(row.worth for row in known) else DENSE

    @property
    def text(self) -> str:
        """The recommendation in a sentence or two."""
        known = [row for row in self.rows if row.speedup is not None]
        if not known:
            return "no recommendation: the table reaches none of these budgets."
        best = max(known, key=lambda row: row.speedup or 0.0)
        if self.ship == UNKNOWN:
            return (
                f"no recommendation: the machine was too noisy (the dense model differed from itself by "
                f"{self.entry.noise:.1%}, and more than {NOISE_LIMIT:.0%} allows no claim). Measure again "
                "with other programs stopped."
            )
        if self.ship == DENSE:
            return (
                f"ship dense: the best of these budgets, {printed(best.budget_gmacs)} GMACs, would be "
                f"{best.speedup:.2f} times as fast, a gain under {WORTH:.0%}."
            )
        return _worthwhile(known)

    def to_json(self) -> Facts:
        """For machines, see docs/advise.md."""
        entry = self.entry
        return {
            "image_size": list(entry.image_size),
            "lowering": entry.lowering,
            "precision": entry.precision,
            "batch": entry.batch,
            "dense_ms": entry.dense_ms,
            "dense_gmacs": gmacs(dense_macs(entry.cost)),
            "noise": entry.noise,
            "rows": [asdict(row) | {"worth": row.worth} for row in self.rows],
            "ship": self.ship,
            "recommendation": self.text,
        }


def advise(
    entry: Entry, budgets: Sequence[float] = (), budgets_ms: Sequence[float] = (), align: int = 1
) -> Advice:
    """Predict budgets (GMACs) and latencies (ms); without either a range of budgets.

    Raises BudgetError for what the model or the table cannot reach.
    """
    predictor, cost = Predictor(entry), entry.cost
    plans = [solve(cost, budget, align=align) for budget in budgets]
    plans += [solve_ms(predictor, ms, align=align) for ms in budgets_ms]
    if not (budgets or budgets_ms):
        plans = _usual(entry, align)
    return Advice(entry, tuple(_row(predictor, plan) for plan in plans))


def _usual(entry: Entry, align: int) -> list[Plan]:
    """Budgets from much to little, without those that the model cannot reach."""
    plans: dict[str, Plan] = {}
    dense = gmacs(dense_macs(entry.cost))
    for share in _SHARES:
        budget = float(printed(share * dense))
        try:
            plan = solve(entry.cost, round(budget, 1) if budget >= 1 else budget, align=align)
        except BudgetError:
            continue
        plans[printed(plan.budget_gmacs)] = plan
    return list(plans.values())


def _row(predictor: Predictor, plan: Plan) -> Row:
    entry = predictor.entry
    executed = macs_executed(entry.cost, plan.keep, entry.lowering)
    dense = macs_executed(entry.cost, (), "dense")
    try:
        share = predictor.share(plan.keep)
    except OutsideTable:
        share = None
    return Row(
        budget_gmacs=plan.budget_gmacs,
        keep=plan.keep,
        gmacs_executed=gmacs(executed),
        mac_ratio=dense / executed,
        ms=None if share is None else share * entry.dense_ms,
        speedup=None if share is None else 1 / share,
    )


def _worthwhile(known: Sequence[Row]) -> str:
    """From the smallest to the largest gain of at least 5 %."""
    paying = sorted((row for row in known if row.worth), key=lambda row: row.speedup or 0.0)
    first, last = paying[0], paying[-1]
    if first is last:
        return f"token reduction pays here: {_gain(first)}."
    too_little = [printed(row.budget_gmacs) for row in known if not row.worth]
    rest = f" Under {WORTH:.0%}, so not worth it: {', '.join(too_little)} GMACs." if too_little else ""
    return (
        f"token reduction pays here: from {_gain(first)} to {_gain(last)}. Train with the largest budget "
        f"that meets your target.{rest}"
    )


def _gain(row: Row) -> str:
    return f"{row.speedup:.2f} times as fast at {printed(row.budget_gmacs)} GMACs"
