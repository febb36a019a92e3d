"""What `onnx` says about half-precision variants: how far rounding moved their answers, and what it held."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tofe_export.cli import console

if TYPE_CHECKING:
    from tofe_export.manifest import Variant

_HEADERS = ("rounded after every operator", "images", "output", "scores", "same tokens", "float32 nodes")


def typed_table(variants: Sequence[Variant]) -> str:
    """A row per half-precision variant, errors as fractions of the range; empty if there is none."""
    typed = [variant for variant in variants if "evaluated" in variant.extra]
    if not typed:
        return ""
    table = console.table(_HEADERS, [_row(variant) for variant in typed], right=(1, 2, 3, 4, 5))
    notes = [note for variant in typed for note in _notes(variant)]
    return "\n".join(["", table, *dict.fromkeys(notes), ""])


def _row(variant: Variant) -> tuple[str, ...]:
    figures = variant.extra["evaluated"]
    output = figures.get("forced_output", figures["output"])
    scores, overlap = figures.get("scores"), figures.get("overlap")
    return (
        variant.name,
        str(figures["images"]),
        f"{output:.1e}",
        f"{max(scores):.1e}" if scores else "-",
        f"{min(overlap):.1%}" if overlap else "-",
        str(len(variant.extra["float32_nodes"])),
    )


def _notes(variant: Variant) -> list[str]:
    """What had to be held in float32 for the sake of the numbers."""
    added = variant.extra["evaluated"]["added"]
    reasons = variant.extra["float32_nodes"]
    large = [name for name, why in reasons.items() if why.startswith(("magnitude", "constant"))]
    notes = []
    if large:
        shown = ", ".join(large[:3]) + (f" and {len(large) - 3} more" if len(large) > 3 else "")
        notes.append(f"{variant.name}: too large for half precision, so float32: {shown}")
    if added:
        notes.append(f"{variant.name}: held in float32 after a first evaluation: {'; '.join(added)}")
    return notes
