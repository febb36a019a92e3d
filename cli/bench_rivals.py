"""`bench --rivals`: other ONNX graphs beside the variants, found and checked before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tofe_export.cli import console
from tofe_export.cli.bench_report import interval
from tofe_export.errors import UsageError

if TYPE_CHECKING:
    from tofe_export.bench.rivals import Rival, RivalComparison
    from tofe_export.bench.rounds import Plan
    from tofe_export.bench.sides import How
    from tofe_export.bundle import Bundle


def on_rivals(context: click.Context, param: click.Parameter, value: str | None) -> tuple[Path, ...]:
    """Split the comma list of files and folders."""
    if value is None:
        return ()
    named = tuple(Path(part.strip()) for part in value.split(",") if part.strip())
    if not named:
        raise click.BadParameter("expected files or folders, found none", context, param)
    return named


def refuse_about_variants(**given: object) -> None:
    """Raise `UsageError` for options that are about variants where only rivals are measured."""
    if flags := [f"--{name}" for name, value in given.items() if value]:
        raise UsageError(
            f"{', '.join(flags)}: what is shown there are variants, and only rivals would be measured. Leave "
            "it out, or pick variants with token reduction, too"
        )


def find(bundle: Bundle, named: Sequence[Path], how: How, against: str) -> list[Rival]:
    """Every rival with what it is measured against. Raises `InputError`, `UsageError`."""
    from tofe_export.bench.rivals import files_of, rival_of

    if not named:
        return []
    if how.backend != "onnxruntime":
        raise UsageError(
            "--rivals are ONNX files, which ONNX Runtime runs, and the variants here run on "
            f"{how.backend}: add --backend onnxruntime"
        )
    return [rival_of(bundle, path, how, against) for path in files_of(named)]


def measure(bundle: Bundle, rivals: Sequence[Rival], how: How, plan: Plan) -> list[RivalComparison]:
    """All rivals one after the other, with progress."""
    from tofe_export.bench.rivals import compare_rival
    from tofe_export.bench.sides import free_device_memory

    found: list[RivalComparison] = []
    if not rivals:
        return found
    bundle.check([], reference=True)
    free_memory = free_device_memory(how)
    with console.progress("rivals", len(rivals)) as progress:
        for rival in rivals:
            show = partial(_show_round, progress, rival.path.name)
            found.append(compare_rival(bundle, rival, how, plan, free_memory, show))
            progress.advance(what=rival.path.name)
    return found


def table(comparisons: Sequence[RivalComparison]) -> str:
    """One line per rival: its latency, its reference's, and how many times as fast it is."""
    headers = ["rival", "input", "batch", "median, ms", "against", "median, ms", "times as fast", "95 %"]
    headers += ["same graph", "verdict"]
    rows: list[list[object]] = []
    for comparison in comparisons:
        rival, found = comparison.rival, comparison.measured
        height, width = rival.image_size
        rows.append(
            [
                rival.path.name,
                f"{height} x {width}",
                rival.batch,
                f"{found.variant.latency.median_ms:.3f}",
                comparison.reference,
                f"{found.against.latency.median_ms:.3f}",
                f"{found.speedup.value:.3f}",
                interval(found.speedup),
                f"{found.noise.value:.3f}",
                comparison.verdict,
            ]
        )
    return console.table(headers, rows, right=(2, 3, 5, 6, 7, 8))


def _show_round(progress: console.Progress, name: str, done: int) -> None:
    progress.show(f"{name}: round {done}")
