"""What `bench` prints: latencies of every side, then each ratio beside what the MACs promise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tofe_export.budget import printed
from tofe_export.cli import console
from tofe_export.cli.inspect import size

if TYPE_CHECKING:
    from tofe_export.bench.comparison import Comparison, Figures
    from tofe_export.bench.document import Change, Saved
    from tofe_export.bench.sides import How
    from tofe_export.bench.statistics import Ratio, Summary
    from tofe_export.manifest import Variant


_RUNTIMES = ("tensorrt", "onnxruntime", "onnxruntime-gpu")


def text(comparisons: Sequence[Comparison], how: How) -> str:
    """All tables of one run."""
    parts = [latency_table(comparisons), ratio_table(comparisons)]
    if any(comparison.alone for comparison in comparisons):
        parts.append(alone_table(comparisons))
    return "\n\n".join([*parts, remark(comparisons[0].clock, how)])


def where(machine: Mapping[str, Any]) -> str:
    """The machine in one line, such as "on AMD EPYC, 2 cores; onnxruntime 1.23.2"."""
    identity, versions = machine["identity"], machine["versions"]
    runtimes = [f"{name} {versions[name]}" for name in _RUNTIMES if versions.get(name)]
    places = [identity.get("board"), identity.get("gpu"), identity.get("processor")]
    found = next((place for place in places if place), "an unnamed processor")
    return f"on {found}, {identity['cores']} cores; {', '.join(runtimes)}"


def latency_table(comparisons: Sequence[Comparison]) -> str:
    """One line per side; the same dense model appears once per comparison, as it was measured there."""
    copies = any(comparison.variant.with_copies for comparison in comparisons)
    memory = any(comparison.variant.device_bytes is not None for comparison in comparisons)
    headers = ["latency, ms", "GMACs run", "batch", "median", "p90", "p95", "p99", "images/s"]
    headers += ["median with copies"] * copies + ["GPU memory"] * memory
    rows = []
    for comparison in comparisons:
        sides = ((comparison.pair.against, comparison.against), (comparison.pair.variant, comparison.variant))
        for variant, figures in sides:
            row = _latency_row(variant, comparison.batch, figures)
            row += [_ms(figures.with_copies.median_ms if figures.with_copies else None)] * copies
            row += [None if figures.device_bytes is None else size(max(figures.device_bytes, 0))] * memory
            rows.append(row)
    return console.table(headers, rows, right=range(1, len(headers)))


def ratio_table(comparisons: Sequence[Comparison]) -> str:
    """Each ratio with its interval, what the MACs promise, the A/A pair, and what may be claimed."""
    copies = any(comparison.with_copies for comparison in comparisons)
    headers = ["against", "variant", "times as fast", "95 %", "MACs", "same graph", "rounds", "verdict"]
    headers[4:4] = ["with copies"] * copies
    rows = []
    for comparison in comparisons:
        row: list[object] = [
            comparison.pair.against.name,
            comparison.pair.variant.name,
            f"{comparison.speedup.value:.3f}",
            interval(comparison.speedup),
            f"{comparison.pair.mac_ratio:.3f}",
            f"{comparison.noise.value:.3f}",
            comparison.speedup.rounds,
            comparison.verdict,
        ]
        row[4:4] = [f"{comparison.with_copies.value:.3f}" if comparison.with_copies else None] * copies
        rows.append(row)
    return console.table(headers, rows, right=range(2, len(headers) - 1))


def alone_table(comparisons: Sequence[Comparison]) -> str:
    """Each side in a fresh process with the runtime's defaults."""
    headers = ["alone, ms", "median", "p90", "p99", "peak memory", "ratio"]
    rows: list[list[object]] = []
    for comparison in comparisons:
        if comparison.alone is None:
            continue
        sides = (("against", comparison.pair.against), ("variant", comparison.pair.variant))
        for key, variant in sides:
            found = comparison.alone[key]
            latency = found["latency"]
            cells = [_ms(latency[name]) for name in ("median_ms", "p90_ms", "p99_ms")]
            ratio = f"{comparison.alone['ratio']:.3f}" if key == "variant" else None
            rows.append([variant.name, *cells, size(found["peak_memory_bytes"]), ratio])
    return console.table(headers, rows, right=range(1, len(headers)))


def changes_table(changed: Sequence[Change], saved: Saved) -> str:
    """The ratios of a saved run beside those of this one."""
    rows = [
        (
            change.variant,
            change.against,
            f"{change.then:.3f}",
            f"{change.now:.3f}",
            "too noisy" if change.change is None else f"{change.change:+.1%}",
            "same" if change.same_graph else "changed",
        )
        for change in changed
    ]
    headers = (f"since {saved.created}", "against", "then", "now", "change", "graph")
    return console.table(headers, rows, right=(2, 3, 4))


def changes_json(changed: Sequence[Change] | None, saved: Saved | None) -> dict[str, Any]:
    """The same for machines; `compared` is null without --compare."""
    if changed is None or saved is None:
        return {"compared": None}
    rows = [vars(change) | {"repeats": change.repeats} for change in changed]
    return {"compared": {"file": str(saved.path), "created": saved.created, "changes": rows}}


def remark(clock: str, how: How) -> str:
    """How to read figures that were taken by this clock."""
    kinds = {"perf_counter": "the clock, from handing pictures over to having answers"}
    kinds["cuda events"] = "CUDA events around the kernels, without copies"
    parts = [f"Times by {kinds[clock]}"]
    if how.backend == "tensorrt":
        parts.append("with a CUDA graph" if how.cuda_graph else "without a CUDA graph")
    elif not how.on_gpu:
        threads = "ONNX Runtime's number of threads" if how.threads is None else f"{how.threads} threads"
        parts.append(f"{threads}, which do not spin while idle")
    return (
        f'{"; ".join(parts)}.\n"Same graph" is the other side against itself: off by more than 3 %, nothing '
        "is claimed.\nFaster and slower mean that the whole 95 % interval says so."
    )


def interval(ratio: Ratio) -> str:
    """Both ends, or that there were too few rounds for them."""
    return f"{ratio.low:.3f} - {ratio.high:.3f}" if math.isfinite(ratio.high) else "too few rounds"


def _latency_row(variant: Variant, batch: int, figures: Figures) -> list[object]:
    latency: Summary = figures.latency
    cells = [_ms(v) for v in (latency.median_ms, latency.p90_ms, latency.p95_ms, latency.p99_ms)]
    return [variant.name, printed(variant.gmacs_executed), batch, *cells, f"{figures.images_per_second:.1f}"]


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
