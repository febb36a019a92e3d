"""Keep counts for a latency: as `keep.solve` finds them for a cost, with the table in the place of MACs.

The profile, how tokens are shared out among the stages, is chosen in the same way: the checkpoint's row that
is nearest (here: in predicted latency), or the paper's. It is scaled as far up as the milliseconds allow, and
no count leaves the measured ones: where the scale asks for fewer or more, it stops at their ends. Predictions
rise with the scale, so the largest one is found by bisection, and equal tables give equal counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from tofe_export.budget import gmacs, macs, printed
from tofe_export.errors import BudgetError
from tofe_export.keep import Measured, Plan, default_profile, fill
from tofe_export.latency.predict import Predictor

_ROUNDING = 1e-9  # of sums of floats, in ms


def solve_ms(predictor: Predictor, budget_ms: float, table: Sequence[Measured] = (), align: int = 1) -> Plan:
    """Keep counts whose predicted latency is at most `budget_ms` per run; their cost is their budget.

    Raises BudgetError: not a time, below what the measured counts reach, or not below the dense model's
    latency (on some devices nothing is).
    """
    cost, entry = predictor.entry.cost, predictor.entry
    ends = _ends(predictor, align)
    fastest = predictor.ms((ends[0],) * cost.stages)
    if fastest >= entry.dense_ms:
        raise BudgetError(
            f"{entry.name}: no latency can be met below the dense model's {entry.dense_ms:.2f} ms, since "
            f"{ends[0]} tokens in each stage take {fastest:.2f} ms. Ship the dense model"
        )
    if not isfinite(budget_ms) or not fastest - _ROUNDING <= budget_ms < entry.dense_ms:
        raise BudgetError(
            f"expected a latency from {_printed_up(fastest)} ms ({ends[0]} tokens in each stage) to below "
            f"{entry.dense_ms:.2f} ms (dense) for {entry.name}, found {budget_ms:g} ms: choose one in between"
        )
    name, row, profile = _profile(predictor, budget_ms, table)
    keep = fill(cost, profile, lambda counts: predictor.ms(counts) <= budget_ms, align, ends)
    thresholds = row.thresholds if row and row.keep == keep else None
    source = f"{name}, scaled to {predictor.ms(keep):.2f} ms of {budget_ms:g}"
    price = gmacs(macs(cost, keep))
    return Plan(float(printed(price)), keep, thresholds, source, price)


def _printed_up(ms: float) -> str:
    """Two decimals that are not below `ms`: a latency that a message names must be one that can be met."""
    shown = f"{ms:.2f}"
    return shown if float(shown) >= ms - _ROUNDING else f"{ms + 0.005:.2f}"


def _ends(predictor: Predictor, align: int) -> tuple[int, int]:
    """The smallest and the largest measured multiple of align. Raises BudgetError if there is none."""
    least, most = -(-predictor.least // align) * align, predictor.most // align * align
    if least > most:
        raise BudgetError(
            f"align: expected a number with multiples among the measured {predictor.least} to "
            f"{predictor.most} tokens, found {align}."
        )
    return least, most


def _profile(
    predictor: Predictor, budget_ms: float, table: Sequence[Measured]
) -> tuple[str, Measured | None, tuple[int, ...]]:
    """Name, row and shares: of the row whose predicted latency is nearest, or the default."""
    inside = [row for row in table if predictor.least <= min(row.keep) <= max(row.keep) <= predictor.most]
    if not inside:
        name, profile = default_profile(predictor.entry.cost.stages)
        return name, None, profile
    row = min(reversed(inside), key=lambda row: abs(predictor.ms(row.keep) - budget_ms))
    return row.source, row, row.keep
