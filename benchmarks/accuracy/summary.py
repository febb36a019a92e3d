"""From records to figures with uncertainty, and to plain words on each of the paper's orderings.

Accuracies of one arm differ between seeds because split, dense backbone and training all do; the interval is
that of their mean over seeds (Student's t, 95 %). Arms of one seed share the split, the backbone and the
order of the data, so the difference of two arms is taken seed by seed. With few seeds that interval is wide;
beside it stands the one over test images, which knows the trained models as they are, not how they would vary
when trained again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev

import numpy as np

from accuracy.results import Record

_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
)  # 97.5 % quantiles, 1..10 degrees
_NORMAL = 1.96


@dataclass(frozen=True)
class Estimate:
    """A mean and the half width of its 95 % interval; None where there is but one value."""

    value: float
    half: float | None

    def points(self, sign: bool = False) -> str:
        """In percent points."""
        value = f"{100 * self.value:{'+' if sign else ''}.2f}"
        return value if self.half is None else f"{value} ± {100 * self.half:.2f}"

    @property
    def certain(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.half is not None and abs(self.value) > self.half


@dataclass(frozen=True)
class Difference:
    """What an arm has more than ToFe, over the seeds that both ran."""

    seeds: Estimate
    images: Estimate
    below: int
    """Seeds in which it is below ToFe."""
    count: int


@dataclass(frozen=True)
class Cell:
    """One arm at one budget in one mode."""

    arm: str
    run: tuple[float, ...]
    share: float | None
    mode: str
    gmacs: float
    accuracy: Estimate
    seconds: float
    records: tuple[Record, ...]
    """One per seed, in the seeds' order."""


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean and t interval. Raises ValueError for no values, or more than the table of quantiles has."""
    if not 1 <= len(values) <= len(_T) + 1:
        raise ValueError(f"expected 1 to {len(_T) + 1} seeds, found {len(values)}")
    if len(values) == 1:
        return Estimate(values[0], None)
    return Estimate(mean(values), _T[len(values) - 2] * stdev(values) / sqrt(len(values)))


def cells(records: Sequence[Record]) -> list[Cell]:
    """Records grouped over seeds, in order of appearance."""
    groups: dict[tuple[str, tuple[float, ...], float | None, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.arm, record.run, record.share, record.mode), []).append(record)
    return [
        Cell(
            *key,
            gmacs=mean(record.gmacs for record in group),
            accuracy=over_seeds([record.accuracy for record in group]),
            seconds=mean(record.seconds for record in group),
            records=tuple(sorted(group, key=lambda record: record.seed)),
        )
        for key, group in groups.items()
    ]


def difference(cell: Cell, reference: Cell) -> Difference | None:
    """`cell` minus `reference`, paired by seed and test image; None where they share no seed."""
    others = {record.seed: record for record in reference.records}
    pairs = [(record, others[record.seed]) for record in cell.records if record.seed in others]
    if not pairs:
        return None
    gaps = [ours.accuracy - theirs.accuracy for ours, theirs in pairs]
    images = np.concatenate([ours.hits().astype(float) - theirs.hits() for ours, theirs in pairs])
    half = _NORMAL * float(images.std(ddof=1)) / sqrt(len(images))
    return Difference(
        over_seeds(gaps), Estimate(float(images.mean()), half), sum(gap < 0 for gap in gaps), len(gaps)
    )


def verdict(found: Difference) -> str:
    """Whether ToFe is ahead, in words; `found` is the other arm minus ToFe."""
    wins = f"ToFe ahead in {found.below} of {found.count} seeds"
    if found.seeds.certain:
        return f"{'holds' if found.seeds.value < 0 else 'does not hold: reversed'} ({wins})"
    if found.images.certain:
        side = "ToFe ahead" if found.images.value < 0 else "ToFe behind"
        return f"open: {side} on these test images, within the spread of seeds ({wins})"
    return f"open: no difference is visible ({wins})"


def find(table: Sequence[Cell], arm: str, share: float | None, mode: str = "static") -> Cell | None:
    """The cell of an arm at a budget."""
    return next((c for c in table if (c.arm, c.share, c.mode) == (arm, share, mode)), None)
