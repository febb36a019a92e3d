"""From a budget to keep counts: what people ask for in GMACs, the graph needs as K_1..K_S.

How tokens are shared out among the stages is learned, so a checkpoint carries a table of measured rows: for
some budgets, the counts that training or calibration arrived at. A budget that has its row gets that row's
counts. Any other gets the *profile* of the nearest row, K_s = round(c * profile_s) with one scale c for all
stages; the profile is what was learned, and Table V shows what a bad one costs (1.7 points for equal thirds).
Without a table the paper's own profile stands in.

The cost never falls when c grows, and the counts change only at c = (k - 1/2) / profile_s for whole k. So the
largest c within the budget is found exactly, by bisection over those fractions; no tolerance is involved, and
equal inputs give equal counts on every machine.

"Within" compares what people see: a cost of 2.004 G is within a budget of 2.00. For the same reason budgets
differ only where they are printed differently: two decimals, or three digits below 0.1.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import floor, isfinite

from tofe_export.budget import Cost, check_keep, gmacs, macs, printed
from tofe_export.errors import BudgetError

PAPER_PROFILE = (49, 25, 14)  # percent of N kept in each stage: DeiT-S at 2.3 G, Table IV


@dataclass(frozen=True)
class Measured:
    """One row of a checkpoint's table: counts that were arrived at for a budget."""

    budget_gmacs: float
    keep: tuple[int, ...]  # S counts of patch tokens
    thresholds: tuple[float, ...] | None  # S score thresholds for adaptive inference
    source: str  # who arrived at them: "training", "calibration"


@dataclass(frozen=True)
class Plan:
    """The keep counts of one variant, what they cost, and where they come from."""

    budget_gmacs: float
    keep: tuple[int, ...]
    thresholds: tuple[float, ...] | None  # only with the counts that they were measured with
    source: str
    gmacs: float  # the paper's account


def solve(cost: Cost, budget_gmacs: float, table: Sequence[Measured] = (), align: int = 1) -> Plan:
    """Keep counts for a budget, each a multiple of align.

    Takes the table's row of this budget if its counts are within, else the nearest row's profile (of two
    equally near, the larger; of two with the same budget, the later), else the default profile, scaled as far
    up as the budget allows.

    Raises BudgetError where no counts can meet the budget, ValueError where the table does not fit the model.
    """
    limit = _limit(cost, budget_gmacs, align)
    if not table:
        name, profile = default_profile(cost.stages)
        keep = fill(cost, profile, lambda counts: _price(cost, counts) <= limit, align)
        return _plan(cost, budget_gmacs, keep, _aligned(f"{name}, scaled", align))

    row = min(reversed(table), key=lambda row: _nearness(row, limit))
    check_keep(cost, row.keep)
    if _shown(row.budget_gmacs) == limit and _price(cost, row.keep) <= limit:
        keep, source = _settle(cost, row.keep, align), row.source
    else:
        keep = fill(cost, row.keep, lambda counts: _price(cost, counts) <= limit, align)
        direction = "down" if macs(cost, keep) < macs(cost, row.keep) else "up"
        source = f"{row.source}, scaled {direction} from {printed(gmacs(macs(cost, row.keep)))}"
    if keep == row.keep:
        return _plan(cost, budget_gmacs, keep, row.source, row.thresholds)
    return _plan(cost, budget_gmacs, keep, _aligned(source, align))


def fill_budget(cost: Cost, profile: Sequence[int], budget_gmacs: float, align: int = 1) -> tuple[int, ...]:
    """Keep counts in the proportions of `profile`, scaled as far up as a budget allows.

    `profile` holds S positive integers of any size, which without reuse never increase. Raises BudgetError
    where no counts can meet the budget.
    """
    limit = _limit(cost, budget_gmacs, align)
    return fill(cost, profile, lambda counts: _price(cost, counts) <= limit, align)


def plan_for_keep(cost: Cost, keep: Sequence[int], budget_gmacs: float | None = None) -> Plan:
    """The plan for counts given by hand; without a budget they name their own, the cost as printed.

    Raises BudgetError for counts that the model cannot keep, or that cost more than the budget.
    """
    try:
        price = _price(cost, keep)
    except ValueError as error:
        raise BudgetError(f"--keep: {error}.") from error
    if budget_gmacs is None:
        budget_gmacs = float(price)
    elif price > _limit(cost, budget_gmacs, 1):
        raise BudgetError(
            f"--keep: these counts cost {price} GMACs, more than the budget of "
            f"{printed(budget_gmacs)}. Keep fewer tokens, or leave out --budget."
        )
    return _plan(cost, budget_gmacs, tuple(keep), "--keep")


def _limit(cost: Cost, budget_gmacs: float, align: int) -> Decimal:
    """The budget as it is printed, once it is known that some counts meet it."""
    if not 1 <= align <= cost.tokens:
        raise BudgetError(f"align: expected 1 to {cost.tokens}, the number of patch tokens, found {align}.")
    least, most = (gmacs(macs(cost, (k,) * cost.stages)) for k in (align, cost.tokens))
    reach = f"this model reaches {printed(least)} to {printed(most)} GMACs"
    if not isfinite(budget_gmacs) or budget_gmacs <= 0:
        raise BudgetError(f"A budget is a number of GMACs above 0, found {budget_gmacs}; {reach}.")
    limit = _shown(budget_gmacs)
    if not _shown(least) <= limit <= _shown(most):
        raise BudgetError(
            f"A budget of {printed(budget_gmacs)} GMACs cannot be met: {reach}, with {align} to "
            f"{cost.tokens} patch tokens kept in each stage. Choose one in between."
        )
    return limit


def fill(
    cost: Cost,
    profile: Sequence[int],
    fits: Callable[[tuple[int, ...]], bool],
    align: int,
    ends: tuple[int, int] | None = None,
) -> tuple[int, ...]:
    """The counts of the largest scale of `profile` that fits; the smallest scale's where none does.

    `fits` must be monotone: nothing fits above what does not. `ends` are the least and the largest count.
    """

    def counts(scale: Fraction) -> tuple[int, ...]:
        return _settle(cost, [floor(scale * share + Fraction(1, 2)) for share in profile], align, ends)

    steps = sorted({Fraction(2 * k - 1, 2 * share) for share in profile for k in range(1, cost.tokens + 1)})
    within = bisect_left(steps, True, key=lambda scale: not fits(counts(scale)))
    return counts(steps[within - 1] if within else Fraction(0))


def default_profile(stages: int) -> tuple[str, tuple[int, ...]]:
    """The paper's profile for its three stages; for any other number, half as many tokens each time."""
    if stages == len(PAPER_PROFILE):
        return "paper profile", PAPER_PROFILE
    return "halving profile", tuple(2 ** (stages - s) for s in range(1, stages + 1))


def _settle(
    cost: Cost, counts: Sequence[int], align: int, ends: tuple[int, int] | None = None
) -> tuple[int, ...]:
    """Counts between the ends and multiples of align; counts that never increase stay so."""
    least, most = ends or (align, cost.tokens)
    return tuple(max(least, min(count, most) // align * align) for count in counts)


def _nearness(row: Measured, limit: Decimal) -> tuple[Decimal, Decimal]:
    budget = _shown(row.budget_gmacs)
    return abs(budget - limit), -budget


def _price(cost: Cost, keep: Sequence[int]) -> Decimal:
    return _shown(gmacs(macs(cost, keep)))


def _shown(giga: float) -> Decimal:
    """What ``printed`` shows, so that it compares exactly."""
    return Decimal(printed(giga))


def _aligned(source: str, align: int) -> str:
    return f"{source}, aligned to {align}" if align > 1 else source


def _plan(
    cost: Cost, budget: float, keep: tuple[int, ...], source: str, thresholds: tuple[float, ...] | None = None
) -> Plan:
    return Plan(budget, keep, thresholds, source, gmacs(macs(cost, keep)))
