"""What a calibration leaves behind: a row in the checkpoint's table, and who made it from what.

The row is what `onnx` exports. Beside it, in the checkpoint's history, stands an entry per budget: which
images (hash, count), which method, when, what it found, and the row that it replaced: nothing is lost.
`onnx` copies the entry into the manifest of every variant that has the row's counts, and `inspect` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from tofe_export import __version__
from tofe_export.budget import printed
from tofe_export.calibration.stream import ImageFacts
from tofe_export.keep import Measured, Plan

if TYPE_CHECKING:
    from tofe_export.model.checkpoint import Checkpoint

KEY = "calibration"  # in a checkpoint's history, and in a variant's manifest entry
COUNTS = "calibration"  # source of rows whose counts were chosen on images

Entry = dict[str, Any]


def entry_for(row: Measured, images: ImageFacts, methods: Mapping[str, Any]) -> Entry:
    """What there is to say about a row: `methods` holds "tokens", "adaptive", or both."""
    return {
        "budget_gmacs": row.budget_gmacs,
        "keep": list(row.keep),
        "thresholds": None if row.thresholds is None else list(row.thresholds),
        "images": images.to_json(),
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "tool_version": __version__,
        **methods,
    }


def with_row(checkpoint: Checkpoint, row: Measured, entry: Entry) -> Checkpoint:
    """The checkpoint with this row instead of those of the same budget, which the entry then remembers."""
    same = [old for old in checkpoint.table if _same(old.budget_gmacs, row.budget_gmacs)]
    others = tuple(old for old in checkpoint.table if old not in same)
    entries = entries_of(checkpoint.history)
    replaced = [_plain(old) for old in same]
    history = {**checkpoint.history, KEY: [*entries, {**entry, "replaced": replaced}]}
    return replace(checkpoint, table=(*others, row), history=history)


def entries_of(history: Mapping[str, Any]) -> list[Entry]:
    """All entries of a history, the oldest first."""
    found = history.get(KEY, [])
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def provenance(history: Mapping[str, Any], plan: Plan | None) -> Entry:
    """{"calibration": ...} for a variant whose counts were calibrated for just this budget, else nothing.

    The candidates that lost stay in the checkpoint.
    """
    if plan is None:
        return {}
    for entry in reversed(entries_of(history)):
        if _same(entry["budget_gmacs"], plan.budget_gmacs) and tuple(entry["keep"]) == plan.keep:
            return {KEY: _short(entry)}
    return {}


def line(entry: Mapping[str, Any]) -> str:
    """One entry in words: from how many pictures, which, how, when."""
    images = entry["images"]
    lost = f", {len(images['unreadable'])} unreadable" if images["unreadable"] else ""
    return (
        f"{_how(entry)} on {images['count']} of {images['found']} pictures of {images['folder']} "
        f"(seed {images['seed']}{lost}, sha256 {images['sha256'][:12]}), {entry['when']}"
    )


def _how(entry: Mapping[str, Any]) -> str:
    """Which parts, and against what."""
    parts: Sequence[str] = [
        *([f"tokens, against {entry['tokens']['against']}"] if "tokens" in entry else []),
        *(["thresholds"] if "adaptive" in entry else []),
        *(["fit"] if "fit" in entry else []),
    ]
    return " and ".join(parts)


def _short(entry: Entry) -> Entry:
    tokens = entry.get("tokens")
    if not isinstance(tokens, dict):
        return dict(entry)
    return {**entry, "tokens": {key: value for key, value in tokens.items() if key != "candidates"}}


def _plain(row: Measured) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()}


def _same(a: float, b: float) -> bool:
    return printed(a) == printed(b)
