"""What is said about INT8 variants: how often they answer as float32 does, and what was left in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tofe_export.cli import console

if TYPE_CHECKING:
    from tofe_export.manifest import Variant

_HEADERS = ("INT8", "products", "of MACs", "agrees with float32", "held-out pictures", "left out")
_FEW = 100
_SHOWN = 4


def int8_table(variants: Sequence[Variant]) -> str:
    """A row per INT8 variant, then what was left out and why; empty if there is none."""
    made = [variant for variant in variants if "int8" in variant.extra]
    if not made:
        return ""
    table = console.table(_HEADERS, [_row(variant) for variant in made], right=(1, 2, 3, 4, 5))
    notes = dict.fromkeys(note for variant in made for note in _notes(variant))
    return "\n".join(["", table, *notes, ""])


def int8_line(account: Mapping[str, Any]) -> str:
    """One variant's calibration in words: from which pictures, how, when."""
    images, method = account["images"], account["method"]
    folder = f" of {images['folder']}" if "folder" in images else ""
    return (
        f"ranges by {method['name']} on half of {images['count']} pictures{folder} "
        f"(sha256 {images['sha256'][:12]}), {account['made']}; {account['agreement']:.1%} of "
        f"{account['held_out_images']} held-out pictures answered as in float32"
    )


def _row(variant: Variant) -> tuple[str, ...]:
    account = variant.extra["int8"]
    return (
        variant.name,
        str(account["products"]),
        f"{account['share_of_macs']:.0%}",
        f"{account['agreement']:.1%}",
        str(account["held_out_images"]),
        str(len(account["left_out"])),
    )


def _notes(variant: Variant) -> list[str]:
    account, notes = variant.extra["int8"], []
    family = variant.name.rpartition("-b")[0]
    if left := account["left_out"]:
        shown = "; ".join(f"{node} ({why})" for node, why in list(left.items())[:_SHOWN])
        more = f"; and {len(left) - _SHOWN} more (in the manifest)" if len(left) > _SHOWN else ""
        notes.append(
            f"{family}: with everything in INT8 {account['agreement_with_nothing_left_out']:.1%} agree, "
            f"{account['min_agreement']:.1%} were asked for; left in float: {shown}{more}"
        )
    if (count := account["held_out_images"]) < _FEW:
        notes.append(
            f"{family}: judged on {count} pictures only, each is {1 / count:.1%}: take a few hundred"
        )
    return notes
