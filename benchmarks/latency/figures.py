"""The pictures of `alignment.py` and `crossover.py`; colours are told apart in grey too."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from latency.ablation import Facts
from latency.cases import DENSE, TINY
from latency.crossover import OURS
from tofe_export.bench.comparison import FASTER, SLOWER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BEST, _WORST = 2.6, 1 / 2.6  # the ends of the colours, alike on both sides of 1
_DARK = 1.8  # from here on black is hard to read
_ROW, _CELL = 2.4, 1.0  # inches
_GRID = 12  # rows that ONNX Runtime's matrix product takes at a time on AVX-512
_LINE, _GUIDE = "#333333", "#dddddd"


def draw_alignment(curves: Sequence[Facts], path: Path) -> None:
    """One panel per batch: the share of the dense latency over K, lines where K + 1 is a multiple of 12."""
    figure, panels = _panels(len(curves), 1, (9, _ROW * len(curves) + 0.6))
    for axes, found in zip(panels, curves, strict=True):
        keep = [point["keep"] for point in found["curve"]]
        share = [point["share"] for point in found["curve"]]
        low, high = (
            [nan if point[end] is None else point[end] for point in found["curve"]] for end in ("low", "high")
        )
        for rows in range(_GRID, keep[-1] + 2, _GRID):
            axes.axvline(rows - 1, color=_GUIDE, linewidth=0.8, zorder=0)
        axes.fill_between(keep, low, high, color=_LINE, alpha=0.2, linewidth=0)
        axes.plot(keep, share, ".-", color=_LINE, markersize=3, linewidth=0.8)
        axes.set(
            title=f"batch {found['batch']}, {found['threads']} threads; dense {found['dense_ms']:.1f} ms",
            xlabel="K, tokens kept in every stage (lines: K + 1 is a multiple of 12)",
            ylabel="latency / dense",
        )
        axes.set_ylim(bottom=0)
    _save(figure, path)


def draw_crossover(groups: Sequence[Facts], path: Path) -> None:
    """One panel per opponent over tokens and batch: how many times as fast ToFe is.

    Brackets: no difference shown, or too noisy to tell. Where the opponent's setting follows from the size,
    it stands below the figure.
    """
    tokens = sorted({group["tokens"] for group in groups})
    batches = sorted({group["batch"] for group in groups})
    kinds = ("the dense model", "fewer pixels, no more MACs", "fewer blocks, no more MACs", "DeiT-Ti")
    figure, panels = _panels(2, 2, (2 * (_CELL * len(tokens) + 1.5), 2 * (0.6 * len(batches) + 1.4)))
    for axes, kind, title in zip(panels, (DENSE, "px", "blocks", TINY), kinds, strict=True):
        _map(axes, groups, kind, tokens, batches)
        axes.set_title(f"times as fast as {title}")
    _save(figure, path)


def _map(
    axes: Axes, groups: Sequence[Facts], kind: str, tokens: Sequence[int], batches: Sequence[int]
) -> None:
    from matplotlib.colors import LogNorm

    image = axes.pcolormesh(
        _edges(len(tokens)),
        _edges(len(batches)),
        [[_value(groups, kind, n, batch) for n in tokens] for batch in batches],
        norm=LogNorm(_WORST, _BEST),
        cmap="PuOr",
        edgecolor="white",
    )
    del image  # the figures are written into the cells, so no scale of colours is needed
    for group in groups:
        name = _opponent(group, kind)
        place = tokens.index(group["tokens"]), batches.index(group["batch"])
        dark = float(group["ours_as_fast_as"][name]["value"]) > _DARK
        colour = "white" if dark else "black"
        axes.annotate(_cell(group, name), place, ha="center", va="center", fontsize="small", color=colour)
    axes.set_xticks(range(len(tokens)), [str(number) for number in tokens])
    axes.set_yticks(range(len(batches)), [str(number) for number in batches])
    axes.set(xlabel="patch tokens", ylabel="batch")


def _edges(count: int) -> list[float]:
    return [number - 0.5 for number in range(count + 1)]


def _value(groups: Sequence[Facts], kind: str, tokens: int, batch: int) -> float:
    for group in groups:
        if (group["tokens"], group["batch"]) == (tokens, batch):
            return float(group["ours_as_fast_as"][_opponent(group, kind)]["value"])
    return nan


def _opponent(group: Facts, kind: str) -> str:
    """The name of the opponent of a kind, such as `144 px`. Raises StopIteration where there is none."""
    names: list[str] = list(group["ours_as_fast_as"])
    return next(name for name in names if name == kind or name.endswith(f" {kind}"))


def _cell(group: Facts, name: str) -> str:
    ratio, setting = group["ours_as_fast_as"][name], name if name not in (DENSE, TINY, OURS) else ""
    shown = f"{ratio['value']:.2f}"
    if ratio["verdict"] not in (FASTER, SLOWER):
        shown = f"({shown})"
    return "\n".join(line for line in (shown, setting) if line)


def _panels(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _save(figure: Figure, path: Path) -> None:
    """Write the picture, the same bytes for the same figures."""
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
