"""What there is to measure: each bundle's static variants, in groups that are verified and timed together.

A unit is one model in one batch and precision: `bench` compares within it, and a unit that is finished stands
for itself when the time runs out. Small batches come first, since they cost least.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tofe_export.bundle import Bundle
from tofe_export.manifest import DYNAMIC


@dataclass(frozen=True)
class Unit:
    """Variants of one bundle with one batch and one precision, dense first."""

    bundle: Path
    batch: int
    precision: str
    variants: tuple[str, ...]
    dense: frozenset[str]
    probed: frozenset[str]  # those that are built with a probe beside them
    first: bool  # the smallest batch of its bundle

    @property
    def model(self) -> str:
        """The folder's name: "deit_s"."""
        return self.bundle.name

    @property
    def name(self) -> str:
        """Unique among all units: "deit_s-b1-fp16"."""
        return f"{self.model}-b{self.batch}-{self.precision}"


def units_of(bundles: Sequence[Path], batches: Collection[int], precisions: Sequence[str]) -> list[Unit]:
    """All units of these batches and precisions: by batch, then bundle, then precision."""
    found = [unit for path in bundles for unit in _of_one(path, batches, precisions)]
    order = {path: at for at, path in enumerate(bundles)}
    return sorted(found, key=lambda unit: (unit.batch, order[unit.bundle], precisions.index(unit.precision)))


def _of_one(path: Path, batches: Collection[int], precisions: Iterable[str]) -> list[Unit]:
    static = [
        variant
        for variant in Bundle.open(path).manifest.variants
        if variant.batch != DYNAMIC and variant.batch in batches and variant.lowering != "adaptive"
    ]
    smallest = min((int(variant.batch) for variant in static), default=0)
    units = []
    for batch in sorted({int(variant.batch) for variant in static}):
        for precision in precisions:
            group = [v for v in static if (v.batch, v.precision) == (batch, precision)]
            group.sort(key=lambda variant: not variant.dense)
            if group:
                first = batch == smallest
                units.append(
                    Unit(
                        bundle=path,
                        batch=batch,
                        precision=precision,
                        variants=tuple(variant.name for variant in group),
                        dense=frozenset(variant.name for variant in group if variant.dense),
                        probed=frozenset(v.name for v in group if v.probe is not None and first),
                        first=first,
                    )
                )
    return units
