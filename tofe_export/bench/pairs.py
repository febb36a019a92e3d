"""Which variants are compared with which: each with the dense model of its batch and precision, or with one.

A ratio between two batches says nothing about the model, and one between two precisions mixes two causes; so
the first is never made, and the second only when both were asked for by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError
from tofe_export.manifest import Variant

DENSE = "dense"


@dataclass(frozen=True)
class Pair:
    """A variant, and what it is measured against."""

    variant: Variant
    against: Variant

    @property
    def mac_ratio(self) -> float:
        """How many times as many MACs the other side executes."""
        return self.against.gmacs_executed / self.variant.gmacs_executed


def pairs_of(bundle: Bundle, picked: Sequence[Variant], against: str = DENSE) -> list[Pair]:
    """Pair the picked variants; those that cannot be are left out when `against` is a name.

    Raises UsageError (no dense partner, nothing to compare) and VariantError (no variant of that name).
    """
    if against == DENSE:
        pairs = [Pair(variant, dense_partner(bundle, variant)) for variant in picked if not variant.dense]
        if not pairs:
            raise UsageError(
                f"expected variants with token reduction, found {_names(picked)}: the dense model is what "
                "they are compared with. Drop the filters, or name another side with --against NAME"
            )
        return pairs
    other = bundle.variant(against)
    pairs = [Pair(v, other) for v in picked if v.name != other.name and v.batch == other.batch]
    if not pairs:
        raise UsageError(
            f"expected variants with batch {other.batch} to compare with {other.name}, found {_names(picked)}"
        )
    return pairs


def dense_partner(bundle: Bundle, variant: Variant) -> Variant:
    """The dense variant of the same batch and precision. Raises UsageError."""
    for other in bundle.manifest.variants:
        if other.dense and (other.batch, other.precision) == (variant.batch, variant.precision):
            return other
    raise UsageError(
        f"expected a dense variant of precision {variant.precision} and batch {variant.batch} to compare "
        f"{variant.name} with, found none in {bundle.path}. Export it (tofe-export onnx writes it beside "
        "every budget), or choose another side with --against NAME"
    )


def _names(variants: Sequence[Variant]) -> str:
    return ", ".join(variant.name for variant in variants) or "none"
