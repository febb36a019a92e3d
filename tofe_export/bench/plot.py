"""Latency against executed MACs: the variants, the dense point, and the line that MACs alone would give.

One panel per batch and precision, as only these are compared. Bars reach from the median to the 90th
percentile; hollow marks belong to comparisons that were too noisy to claim anything. Colours are told apart
in grey too. matplotlib draws; it is the extra `plot`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tofe_export.bench.comparison import Comparison, Figures
from tofe_export.errors import MissingExtra, UsageError
from tofe_export.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")
_WIDTH, _HEIGHT = 4.5, 3.6  # inches per panel
_REFERENCE, _VARIANT, _IDEAL = "#222222", "#d95f02", "#999999"

Panel = tuple[int, str]


def check_plot(path: Path) -> None:
    """Raise UsageError for a format that is not drawn, and MissingExtra without matplotlib."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"expected a picture ending in {' or '.join(FORMATS)}, found {path.name}")
    try:
        import matplotlib  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error


def draw(comparisons: Sequence[Comparison], path: Path, title: str) -> None:
    """Write the picture. Raises what `check_plot` raises, and WriteError."""
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = panels_of(comparisons)
    figure = Figure(figsize=(_WIDTH * len(panels), _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axes, (panel, members) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _draw_panel(axes, panel, members)
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower(), dpi=150)
    write_atomic(path, picture.getvalue())


def panels_of(comparisons: Sequence[Comparison]) -> dict[Panel, list[Comparison]]:
    """The comparisons by batch and precision, in the order in which they come."""
    panels: dict[Panel, list[Comparison]] = {}
    for comparison in comparisons:
        panels.setdefault((comparison.batch, comparison.pair.variant.precision), []).append(comparison)
    return panels


def _draw_panel(axes: Axes, panel: Panel, members: Sequence[Comparison]) -> None:
    first = members[0]
    macs, latency = first.pair.against.gmacs_executed, first.against.latency.median_ms
    axes.plot([0, macs], [0, latency], "--", color=_IDEAL, label="as the MACs")
    _mark(axes, macs, first.against, _REFERENCE, "s", first.too_noisy, first.pair.against.name)
    for lowering, marker in (("scatter", "o"), ("concat", "^"), ("adaptive", "D"), ("dense", "s")):
        label: str | None = lowering
        for member in (m for m in members if m.pair.variant.lowering == lowering):
            _mark(
                axes,
                member.pair.variant.gmacs_executed,
                member.variant,
                _VARIANT,
                marker,
                member.too_noisy,
                label,
            )
            label = None
    axes.set(title=f"batch {panel[0]}, {panel[1]}", xlabel="executed GMACs per image", ylabel="ms per run")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize="small")


def _mark(
    axes: Axes, macs: float, figures: Figures, colour: str, marker: str, hollow: bool, label: str | None
) -> None:
    latency = figures.latency
    above = (latency.p90_ms or latency.median_ms) - latency.median_ms
    options: dict[str, Any] = {"color": colour, "fmt": marker, "label": label, "capsize": 2}
    axes.errorbar(
        [macs],
        [latency.median_ms],
        yerr=np.array([[0], [above]]),
        mfc="none" if hollow else colour,
        **options,
    )
