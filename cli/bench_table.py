"""`tofe-export bench LADDER --table FILE`: measure a ladder into a latency table, or add to the one there.

What would make the run worthless is found before it: a bundle that is no ladder, a table of another machine,
model or way of measuring, options that compare variants, which here there are none to compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tofe_export.cli import bench_setup, bundles, console
from tofe_export.errors import MissingBackend, UsageError

if TYPE_CHECKING:
    from tofe_export.bench.sides import How
    from tofe_export.bundle import Bundle
    from tofe_export.latency.measure import Length
    from tofe_export.latency.rungs import Rungs
    from tofe_export.latency.table import Entry, Table
    from tofe_export.runtime.choice import Choice

_WITHOUT = {"against": "--against", "alone": "--alone", "compare": "--compare", "plot": "--plot"}
_WITHOUT |= {"strict": "--strict", "run_batch": "--run-batch", "rivals": "--rivals", "layers": "--layers"}
_WITHOUT |= {"openings": "--openings"}


@dataclass(frozen=True)
class Way:
    """What the command line says about the runtime; None: the default."""

    backend: str | None = None
    provider: str | None = None
    threads: int | None = None
    cuda_graph: bool | None = None


def run(
    path: Path,
    table: Path,
    filters: Mapping[str, Any],
    way: Way,
    length: Length,
    json_target: str | None,
) -> None:
    """Measure, print, write. Raises `UsageError` before measuring for what cannot be."""
    from tofe_export.bundle import Bundle

    refuse_comparisons(click.get_current_context())
    bundle = Bundle.open(path)
    rungs, choice = rungs_and_backend(bundle, filters, way)
    before = earlier(table)
    found = measure(bundle, rungs, choice, how_of(choice, way), length, before)
    made = before[0].joined(found, table) if before else found
    made.save(table)
    console.say(table_text(found))
    console.emit(made.to_json(), json_target)
    warn_noise(found.entries)
    console.say(
        f"\nwrote {table}; read it with: tofe-export advise --model {made.backbone} --latency {table}"
    )


def refuse_comparisons(context: click.Context) -> None:
    """Raise UsageError for an option that would do nothing beside --table."""
    given = [
        flag for name, flag in _WITHOUT.items()
        if context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
    ]  # fmt: skip
    if given:
        raise UsageError(f"--table measures a ladder and compares nothing: leave out {', '.join(given)}")


def length_of(context: click.Context, seconds: float | None, iterations: int | None, warmup: int) -> Length:
    """How long to measure each rung, whose warm-up is shorter than that of `bench`. Raises UsageError."""
    from tofe_export.bench.rounds import Plan
    from tofe_export.latency.measure import SECONDS, Length

    if seconds is not None and iterations is not None:
        raise UsageError("--seconds and --iterations both say how long to measure: give one of them")
    if iterations is not None:
        Plan(iterations=iterations)  # refuses too few
    default = context.get_parameter_source("warmup") in (ParameterSource.DEFAULT, None)
    return Length(SECONDS if seconds is None else seconds, iterations, Length.warmup if default else warmup)


def rungs_and_backend(bundle: Bundle, filters: Mapping[str, Any], way: Way) -> tuple[list[Rungs], Choice]:
    """The ladder, and what runs all of it. Raises `UsageError`, `MissingBackend`."""
    from tofe_export.latency.rungs import rungs_of

    picked = bundles.variants_of(bundle, filters)
    rungs = rungs_of(bundle, picked)
    needed = [variant for group in rungs for variant in (group.dense, *group.variants)]
    choice = bundles.choose_backend(bundle, needed, way.backend, way.provider, bool(filters["names"]))
    there = {variant.name for variant in choice.variants}
    able = [group for group in rungs if group.dense.name in there]
    ready = [variant for group in able for variant in group.variants if variant.name in there]
    if not ready:
        raise MissingBackend(
            f"{bundle.path} has no engines here for a rung and its dense model, such as "
            f"{rungs[0].variants[0].name} and {rungs[0].dense.name}: tofe-export trt {bundle.path}"
        )
    if choice.provider == "cpu" and not (filters["names"] or filters["precisions"]):
        ready = bench_setup.full_precision(ready, lambda variant: variant.precision)
    return rungs_of(bundle, ready), choice


def how_of(choice: Choice, way: Way) -> How:
    """As `bench` runs its sides. Raises `UsageError` for an option that would do nothing."""
    return bench_setup.how_of(choice, None, way.threads, way.cuda_graph, [])


def earlier(path: Path) -> tuple[Table, Path] | None:
    """The table that is there already, to be added to. Raises InputError where it is something else."""
    from tofe_export.latency.table import Table

    return (Table.load(path), path) if path.exists() else None


def measure(
    bundle: Bundle,
    rungs: list[Rungs],
    choice: Choice,
    how: How,
    length: Length,
    before: tuple[Table, Path] | None = None,
) -> Table:
    """Measure all rungs, with progress. Raises UsageError at once where `before` could not be added to."""
    from tofe_export.bench.machine import now
    from tofe_export.bench.sides import open_side
    from tofe_export.inputs import as_fed
    from tofe_export.latency.measure import Bench, empty_table

    facts = bench_setup.look(choice, None, how, bundle)
    table = empty_table(bundle, how, facts)
    if before:
        before[0].joined(table, before[1])  # refuses before the long part
        before[0].require_model(bundle.manifest.cost, rungs[0].heads, before[1])
    bundle.check([], reference=True)
    images = as_fed(bundle.reference().images, bundle.manifest.model, bundle.manifest.preprocessing)
    entries = []
    with console.progress("measure", sum(len(group.variants) for group in rungs)) as progress:
        for group in rungs:
            bench = Bench(
                bundle,
                lambda variant: open_side(bundle, variant, how),
                images,
                how.batch_of,
                length,
                say=lambda name: progress.advance(what=name),
            )
            entries.append(bench.entry(group))
    facts["after"] = now(facts["identity"]["gpu"])
    return table.with_entries(entries)


def table_text(table: Table) -> str:
    """Latency over keep counts, one block of lines per entry."""
    parts = []
    for entry in table.entries:
        rows: list[tuple[object, ...]] = [
            (
                step.keep,
                f"{step.share * entry.dense_ms:.3f}",
                f"{step.share:.3f}",
                _interval(step.low, step.high),
            )
            for step in entry.steps
        ]
        rows.append(("dense", f"{entry.dense_ms:.3f}", "1.000", ""))
        headers = ("tokens", "ms", "of dense", "95 %")
        parts.append(f"{entry.name}\n{console.table(headers, rows, right=(0, 1, 2))}")
    return "\n\n".join(parts)


def warn_noise(entries: Sequence[Entry]) -> None:
    """Warn of entries that allow no claim."""
    from tofe_export.bench.comparison import NOISE_LIMIT

    noisy = [entry for entry in entries if entry.noise > NOISE_LIMIT]
    if noisy:
        worst = max(noisy, key=lambda entry: entry.noise)
        console.warn(
            f"too noisy for advice: {len(noisy)} of {len(entries)} entries; in {worst.name} the dense "
            f"model differs from itself by {worst.noise:.1%}, and more than {NOISE_LIMIT:.0%} allows no "
            "claim. Stop other programs, fix the clocks, or measure longer (--seconds)"
        )


def _interval(low: float, high: float | None) -> str:
    return "too few rounds" if high is None else f"{low:.3f} - {high:.3f}"
