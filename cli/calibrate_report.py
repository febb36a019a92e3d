"""What `calibrate` says about counts and thresholds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tofe_export.budget import printed
from tofe_export.cli import console

if TYPE_CHECKING:
    from tofe_export.calibration.checkpoint import Calibrated
    from tofe_export.calibration.stream import ImageStream
    from tofe_export.calibration.tokens import Solved
    from tofe_export.keep import Measured

SHOWN = 5  # unreadable pictures that are named


def unreadable_text(stream: ImageStream) -> str:
    """Which pictures were left out, or nothing."""
    names = list(stream.unreadable)
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"{len(names)} of {len(stream.selection.names)} pictures cannot be read and were left out: "
        f"{', '.join(names[:SHOWN])}{more}"
    )


def text(found: Sequence[Calibrated]) -> str:
    """The rows, then how the counts were chosen, then what the thresholds mean."""
    parts = [rows_table([(one.row, one.gmacs) for one in found])]
    if solved := [one.solved for one in found if one.solved is not None]:
        parts.append(tokens_table(solved))
        parts += [verdict(one) for one in solved]
    if any(one.thresholds for one in found):
        parts.append(thresholds_table(found))
    return "\n\n".join(parts)


def rows_table(rows: Sequence[tuple[Measured, float]]) -> str:
    """What `onnx` will export, one line per budget."""
    headers = ("budget", "keep", "GMACs (paper's)", "counts from")
    cells = [
        (f"{printed(row.budget_gmacs)} GMACs", _counts(row.keep), printed(price), row.source)
        for row, price in rows
    ]
    return console.table(headers, cells, right=(2,))


def tokens_table(solved: Sequence[Solved]) -> str:
    """Per budget the counts before and after, on images that the search did not see."""
    first = solved[0].held_out
    headers = (f"budget; {first.images} other pictures", "counts", "keep", "divergence", "same class")
    cells = []
    for one in solved:
        labels = (("before", one.start), ("best found", one.candidates[0].keep))
        for (label, keep), loss in zip(labels, one.held_out.losses, strict=True):
            agreement = None if loss.agreement != loss.agreement else f"{loss.agreement:.1%}"
            cells.append((one.target.name, label, _counts(keep), f"{loss.divergence:.4f}", agreement))
    return console.table(headers, cells, right=(3, 4))


def verdict(one: Solved) -> str:
    """Which counts stay, and why."""
    paired, budget = one.held_out, one.target.name
    interval = f"{paired.difference:+.4f} ± {1.96 * paired.error:.4f}"
    tried = f"{len(one.candidates)} sets of counts tried against {one.against}"
    if one.changed:
        return f"{budget}: {_counts(one.keep)} it is. {tried}; divergence {interval} (95 %)"
    if one.candidates[0].keep == one.start:
        return f"{budget}: {_counts(one.keep)} stays: nothing better was found. {tried}"
    return (
        f"{budget}: {_counts(one.keep)} stays: on other pictures the best found is no better. "
        f"{tried}; divergence {interval} (95 %)"
    )


def thresholds_table(found: Sequence[Calibrated]) -> str:
    """Thresholds per stage, and what an image keeps and costs with them."""
    headers = ("adaptive", "thresholds", "kept on average", "GMACs on average (paper's)")
    cells = [
        (
            f"{printed(one.row.budget_gmacs)} GMACs",
            " ".join(f"{value:.4g}" for value in one.thresholds.values),
            " ".join(f"{mean:.2f}" for mean in one.thresholds.keep_mean),
            printed(one.thresholds.gmacs_mean),
        )
        for one in found
        if one.thresholds is not None
    ]
    return console.table(headers, cells, right=(3,))


def _counts(keep: Sequence[int]) -> str:
    return "/".join(map(str, keep))
