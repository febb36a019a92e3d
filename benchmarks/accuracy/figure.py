"""Accuracy against GMACs, with 95 % intervals over seeds: the form of the paper's Fig. 6."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accuracy.arms import ARMS
from accuracy.summary import Cell, find

MARKERS = "osD^v<>PX*"


def draw(table: Sequence[Cell], path: Path) -> None:
    """Every arm that ran at every budget as one line, the dense backbone as a level."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    dense = find(table, "backbone", None)
    if dense:
        axes.axhline(100 * dense.accuracy.value, color="grey", linestyle=":")
        label = f"dense, {dense.gmacs:.3g} GMACs"
        axes.annotate(
            label, (0.01, 100 * dense.accuracy.value), xycoords=("axes fraction", "data"), va="bottom"
        )
    lines = [arm for arm in ARMS if arm.every_budget]
    for number, arm in enumerate(lines):
        points = sorted((c for c in table if c.arm == arm.name and c.mode == "static"), key=lambda c: c.gmacs)
        if points:
            axes.errorbar(
                [c.gmacs for c in points],
                [100 * c.accuracy.value for c in points],
                yerr=[100 * (c.accuracy.half or 0) for c in points],
                marker=MARKERS[number % len(MARKERS)],
                linewidth=2.5 if arm.name == "tofe" else 1.2,
                color="black" if arm.name == "tofe" else None,
                capsize=3,
                label=arm.label,
                zorder=3 if arm.name == "tofe" else 2,
            )
    axes.set_xlabel("GMACs per image")
    axes.set_ylabel("accuracy on the test images, %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path)
    pyplot.close(figure)
