"""`tofe-export bench [BUNDLE]`: latency against the dense model, and a claim only where the figures bear it.

What can be wrong with the command line is found before the long part: the picture's format, a saved run that
may not be compared with this machine, sides that do not fit together. Figures of a machine that is too noisy
are printed without a claim; that is exit code 0 with a warning, because the measuring itself went well, and
exit code 1 with `--strict`, for scripts that need an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofe_export.cli import bench_layers, bench_report, bench_rivals, bench_setup, bundles, console, options
from tofe_export.errors import VerdictFailed

if TYPE_CHECKING:
    from tofe_export.bench.comparison import Comparison
    from tofe_export.bench.pairs import Pair
    from tofe_export.bench.rivals import RivalComparison
    from tofe_export.bench.rounds import Plan
    from tofe_export.bench.sides import How
    from tofe_export.bundle import Bundle

_FILE = options.PATH


@click.command("bench", short_help="Latency against the dense model.")
@options.bundle
@options.variant_filters
@options.backend
@options.provider
@click.option(
    "--against", default="dense", show_default=True, metavar="dense|NAME", help="What to compare with."
)
@click.option("--seconds", type=options.FiniteRange(min=0), metavar="S", help="Per comparison. Default: 10.")
@click.option("--iterations", type=int, metavar="N", help="Rounds per comparison, instead of --seconds.")
@click.option(
    "--warmup", type=click.IntRange(min=0), default=10, show_default=True, metavar="N", help="Rounds first."
)
@click.option(
    "--openings",
    type=click.IntRange(min=1),
    metavar="N",
    help="Open all sides N times, and share the rounds out. Default: 3 on a processor, 1 on a GPU.",
)
@click.option(
    "--run-batch",
    type=click.IntRange(min=1),
    metavar="N",
    help="For variants with a dynamic batch. Default: 1.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Of ONNX Runtime's CPU provider.")
@click.option("--cuda-graph/--no-cuda-graph", default=None, help="With TensorRT. Default: with a CUDA graph.")
@click.option(
    "--alone", is_flag=True, help="Also each side by itself in a fresh process, with the runtime's defaults."
)
@click.option(
    "--compare", type=_FILE, metavar="FILE", help="A saved --json of this machine, to show what changed."
)
@click.option(
    "--plot",
    type=_FILE,
    metavar="FILE.png|svg",
    callback=bench_setup.on_target,
    help="Draw latency against GMACs.",
)
@click.option(
    "--rivals",
    metavar="DIR|FILE.onnx,...",
    callback=bench_rivals.on_rivals,
    help="Also measure these graphs against the dense variant of their batch.",
)
@click.option(
    "--layers",
    is_flag=True,
    help="Also where the time goes: the runtime's own profile, per module and operator.",
)
@click.option("--strict", is_flag=True, help="Exit 1 when the machine is too noisy to tell.")
@click.option(
    "--table",
    type=_FILE,
    metavar="FILE",
    callback=bench_setup.on_target,
    help="BUNDLE is a ladder (`advise --ladder`): measure it into this latency table, or add to it.",
)
@options.json_target
@options.quiet
def command(
    bundle: Path,
    backend: str | None,
    provider: str | None,
    against: str,
    seconds: float | None,
    iterations: int | None,
    warmup: int,
    openings: int | None,
    run_batch: int | None,
    threads: int | None,
    cuda_graph: bool | None,
    alone: bool,
    compare: Path | None,
    plot: Path | None,
    rivals: tuple[Path, ...],
    layers: bool,
    strict: bool,
    table: Path | None,
    json_target: str | None,
    **filters: Any,  # noqa: ANN401 - options.variant_filters
) -> None:
    """Measure the variants of BUNDLE against the dense model of the same batch and precision, in turns.

    A ratio comes with its 95 % interval and beside the ratio of executed MACs; "faster" means that the whole
    interval says so. Every comparison runs the other side a second time: where the same graph differs from
    itself by more than 3 %, the machine is too noisy and nothing is claimed.
    """
    from tofe_export.bench.document import Saved, changes, make_document
    from tofe_export.bench.machine import now

    if table:
        from tofe_export.cli import bench_table

        length = bench_table.length_of(click.get_current_context(), seconds, iterations, warmup)
        way = bench_table.Way(backend, provider, threads, cuda_graph)
        bench_table.run(bundle, table, filters, way, length, json_target)
        return
    plan = bench_setup.plan_of(seconds, iterations, warmup, openings)
    saved = Saved.load(compare) if compare else None
    if plot:
        from tofe_export.bench.plot import check_plot

        check_plot(plot)
    opened = bundles.open_bundle(bundle)
    pairs, choice = bench_setup.choose(opened, against, backend, provider, filters, alone_too=bool(rivals))
    if not pairs:
        bench_rivals.refuse_about_variants(alone=alone, plot=plot, compare=compare)
    how = bench_setup.how_of(choice, run_batch, threads, cuda_graph, pairs)
    if layers:
        bench_layers.require(how)
    opponents = bench_rivals.find(opened, rivals, how, against)
    machine = bench_setup.look(choice, saved, how, opened, pairs)
    if openings is None and not how.on_gpu:
        plan = replace(plan, openings=bench_setup.OPENINGS)

    comparisons = measure(opened, pairs, how, plan, alone)
    rivalled = bench_rivals.measure(opened, opponents, how, plan)
    profiled = bench_layers.sides_of(pairs, choice.variants) if layers else []
    profiles = bench_layers.measure(opened, profiled, how)
    machine["after"] = now(machine["identity"]["gpu"])
    changed = changes(saved, comparisons) if saved else None
    console.say(f"{bench_report.where(machine)}\n")
    if comparisons:
        console.say(bench_report.text(comparisons, how))
    if rivalled:
        console.say(
            f"\n{bench_rivals.table(rivalled)}\n\n{bench_report.remark(rivalled[0].measured.clock, how)}"
        )
    if profiles:
        console.say(f"\n{bench_layers.text(profiles)}")
    if saved and changed is not None:
        console.say(f"\n{bench_report.changes_table(changed, saved)}")
    document = make_document(opened, how, plan, machine, comparisons, rivalled)
    document["layers"] = [one.to_json() for one in profiles]
    console.emit(document | bench_report.changes_json(changed, saved), json_target)
    if plot and comparisons:
        from tofe_export.bench.plot import draw

        draw(comparisons, plot, f"{opened.manifest.model.backbone}, {choice.provider}")
    say_noise([*comparisons, *rivalled], strict)


def measure(bundle: Bundle, pairs: Sequence[Pair], how: How, plan: Plan, alone: bool) -> list[Comparison]:
    """All comparisons, with progress."""
    from tofe_export.bench.alone import measure_alone
    from tofe_export.bench.comparison import compare
    from tofe_export.bench.sides import free_device_memory, open_side
    from tofe_export.inputs import as_fed

    bundle.check([], reference=True)
    images = as_fed(bundle.reference().images, bundle.manifest.model, bundle.manifest.preprocessing)
    free_memory = free_device_memory(how)
    found = []
    with console.progress("bench", len(pairs)) as progress:
        for pair in pairs:
            name = pair.variant.name
            comparison = compare(
                pair,
                lambda variant: open_side(bundle, variant, how),
                images,
                how.batch_of(pair.variant),
                plan,
                free_memory,
                on_round=partial(_show_round, progress, name),
            )
            if alone:
                progress.show(f"{name}: alone")
                comparison = replace(comparison, alone=measure_alone(bundle, pair, how, plan))
            found.append(comparison)
            progress.advance(what=name)
    return found


def _show_round(progress: console.Progress, name: str, done: int) -> None:
    progress.show(f"{name}: round {done}")


def say_noise(comparisons: Sequence[Comparison | RivalComparison], strict: bool) -> None:
    """Warn of comparisons that allow no claim. Raises `VerdictFailed` with --strict."""
    noisy = [comparison for comparison in comparisons if comparison.too_noisy]
    if not noisy:
        return
    worst = max(noisy, key=lambda comparison: comparison.noise.deviation)
    text = (
        f"too noisy to tell for {len(noisy)} of {len(comparisons)} comparisons: {worst.reference} "
        f"differs from itself by {worst.noise.deviation:.1%}, and more than 3 % allows no claim. Stop other "
        "programs, fix the clocks, or measure longer (--seconds)"
    )
    if strict:
        raise VerdictFailed(text)
    console.warn(text)
