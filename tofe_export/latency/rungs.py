"""Reading a ladder: which variants of a bundle are its rungs, and which dense model stands beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tofe_export.bench.pairs import dense_partner
from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, UsageError
from tofe_export.manifest import Variant

LADDER = "ladder"
"""The manifest's key of a ladder's variants; holds what a table needs and a manifest lacks."""

_SHARES = [Fraction(n, 32) for n in (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32)]


def default_counts(tokens: int, below: int) -> tuple[int, ...]:
    """Keep counts of a ladder: twelve shares of N, closer to one another at the small end; under `below`."""
    return tuple(sorted({min(max(1, int(share * tokens)), below - 1) for share in _SHARES}))


def is_ladder(bundle: Bundle) -> bool:
    """Whether all variants are a ladder's."""
    variants = bundle.manifest.variants
    return bool(variants) and all(LADDER in variant.extra for variant in variants)


@dataclass(frozen=True)
class Rungs:
    """Variants of one lowering, precision and batch, by increasing keep count, and their dense model."""

    dense: Variant
    variants: tuple[Variant, ...]
    heads: int

    @property
    def name(self) -> str:
        """For people: "scatter, fp32, batch 1"."""
        first = self.variants[0]
        return f"{first.lowering}, {first.precision}, batch {first.batch}"


def rungs_of(bundle: Bundle, picked: Sequence[Variant]) -> list[Rungs]:
    """The picked variants as rungs. Raises UsageError where they are no ladder, BundleError if damaged."""
    groups: dict[tuple[str, str, str], list[Variant]] = {}
    for variant in picked:
        if not variant.dense:
            groups.setdefault((variant.lowering, variant.precision, str(variant.batch)), []).append(variant)
    if not is_ladder(bundle) or not groups or min(map(len, groups.values())) < 2:
        raise UsageError(
            f"expected a ladder, two or more variants with equal keep counts in all stages, found "
            f"{', '.join(variant.name for variant in picked) or 'nothing'} in {bundle.path}. Make one on the "
            "host: tofe-export advise --model NAME --ladder DIR"
        )
    return [
        Rungs(dense_partner(bundle, group[0]), tuple(sorted(group, key=count_of)), _heads(bundle, group[0]))
        for group in groups.values()
    ]


def count_of(variant: Variant) -> int:
    """K of a rung. Raises BundleError where the stages differ."""
    counts = set(variant.keep or ())
    if len(counts) != 1:
        raise BundleError(
            f"manifest.json, variant {variant.name}: expected one keep count in all stages of a ladder, "
            f"found {variant.keep}. Make the ladder again"
        )
    return counts.pop()


def _heads(bundle: Bundle, variant: Variant) -> int:
    facts = variant.extra[LADDER]
    heads = facts.get("heads") if isinstance(facts, dict) else None
    if type(heads) is not int or heads < 1:
        raise BundleError(
            f"{bundle.path}, variant {variant.name}: expected {LADDER}.heads of at least 1, found {facts!r}. "
            "Make the ladder again"
        )
    return heads
