"""`tofe-export trt [BUNDLE]`: one engine per variant, built on the device that runs it.

What the command prints is what was found: a precision is named after the verdict on the engine, and an engine
is called built, never right, because only `verify` can say that. A variant that fails does not stop the
others, which took minutes too; the command fails at the end. An engine that is there, whole and made with the
same options is kept.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tofe_export.cli import bundles, console, options, trt_report
from tofe_export.cli.inspect import size
from tofe_export.errors import (
    INTERRUPTED,
    BuildFailed,
    BundleError,
    InputError,
    PrecisionError,
    UsageError,
)

if TYPE_CHECKING:
    from tofe_export.bundle import Bundle
    from tofe_export.manifest import Variant
    from tofe_export.trt.engines import EngineFile
    from tofe_export.trt.jobs import Plan
    from tofe_export.trt.platform import Platform
    from tofe_export.trt.request import BuildOptions, Job

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def on_profile(
    context: click.Context, param: click.Parameter, text: str | None
) -> tuple[int, int, int] | None:
    """Three batch sizes that do not decrease."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6}),(\d{1,6}),(\d{1,6})", text.replace(" ", ""))
    low, typical, high = map(int, found.groups()) if found else (0, 0, 0)
    if not 0 < low <= typical <= high:
        raise click.BadParameter(
            f"expected MIN,OPT,MAX of at least 1 in rising order, got {text!r}", context, param
        )
    return low, typical, high


@click.command("trt", short_help="Build TensorRT engines, on the device.")
@options.bundle
@click.option("--fp32", is_flag=True, help="Engines in float32 (TF32 is switched off).")
@click.option("--fp16", is_flag=True, help="Engines in half precision; selectors stay float32.")
@click.option("--bf16", is_flag=True, help="Engines in bfloat16: TensorRT 10, Ampere or newer.")
@click.option("--int8", is_flag=True, help="Engines of the quantised graphs: int8 on 8.6, int8fp16 since 10.")
@options.variant_filters
@click.option("--workspace", type=click.IntRange(min=1), metavar="MIB", help="Scratch memory for kernels.")
@click.option("--opt-level", type=click.IntRange(0, 5), help="Effort, TensorRT's default is 3.")
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path, dir_okay=False, readable=False),
    metavar="FILE",
    help="Kernel timings to start from and to update. Default: one per device in BUNDLE/engines.",
)
@click.option(
    "--profile", callback=on_profile, metavar="MIN,OPT,MAX", help="Batches of a dynamic variant [1,8,32]."
)
@click.option("--version-compatible", is_flag=True, help="Plans that newer TensorRT versions run too.")
@click.option("--probe", is_flag=True, help="Build probes too: `verify` then sees and forces kept tokens.")
@click.option("--force", is_flag=True, help="Build again what is there.")
@options.json_target
@options.quiet
def command(
    bundle: Path,
    workspace: int | None,
    opt_level: int | None,
    timing_cache: Path | None,
    profile: tuple[int, int, int] | None,
    version_compatible: bool,
    probe: bool,
    force: bool,
    json_target: str | None,
    **choice: Any,  # noqa: ANN401 - the precision flags and options.variant_filters
) -> None:
    """Build an engine of each variant of BUNDLE for this GPU and this TensorRT.

    Without a precision: fp32 and fp16, as far as the bundle has them. The dense model is built too, for
    comparison, unless variants are named. An engine that is there and fits is kept. A precision that did not
    happen is an error, and its engine is not written.
    """
    from tofe_export.trt.platform import Platform
    from tofe_export.trt.request import BuildOptions

    if timing_cache is not None and not timing_cache.absolute().parent.is_dir():
        raise UsageError(
            f"--timing-cache {timing_cache}: there is no folder {timing_cache.absolute().parent}"
        )
    wanted = tuple(precision for precision in PRECISIONS if choice.pop(precision))
    wanted += choice.pop("precisions")
    opened = bundles.open_bundle(bundle)
    picked = candidates(opened, choice)
    platform = Platform.here()
    console.note(platform.describe())
    if platform.features.strong_types:  # types come from the graph: INT8 with half precision around it
        wanted = tuple("int8fp16" if precision == "int8" else precision for precision in wanted)
    build_options = BuildOptions(workspace, opt_level, profile, version_compatible)
    plan = plan_of(opened, picked, wanted, platform, build_options, probe, named=bool(choice["names"]))
    cache = timing_cache or default_cache(opened, platform)
    engines, failures = build_all(opened, plan, platform, cache, force)
    trt_report.report(opened, plan, platform, engines, failures, json_target)


def candidates(bundle: Bundle, filters: dict[str, Any]) -> list[Variant]:
    """The variants that the options pick, and the dense ones beside them unless variants are named."""
    from tofe_export.trt.jobs import with_dense

    picked = bundles.variants_of(bundle, filters)
    return picked if filters["names"] else with_dense(bundle, picked)


def plan_of(
    bundle: Bundle,
    picked: Sequence[Variant],
    precisions: Sequence[str],
    platform: Platform,
    build_options: BuildOptions,
    probe: bool,
    named: bool,
) -> Plan:
    """The jobs, after warnings about this TensorRT and a look at the graphs' hashes."""
    from tofe_export.manifest import DYNAMIC
    from tofe_export.trt.compat import known_faults
    from tofe_export.trt.jobs import plan_jobs

    plan = plan_jobs(bundle, picked, precisions, platform, build_options, probe, named)
    capability = platform.device.compute_capability
    faults = [
        fault
        for job in plan.jobs
        for fault in known_faults(
            platform.features, job.variant.precision, capability, job.variant.batch == DYNAMIC
        )
    ]
    for fault in dict.fromkeys(faults):
        console.warn(fault)
    for skipped in plan.skipped:
        console.note(f"left out {skipped}")
    bundle.check([bundle.variant(job.twin or job.variant.name) for job in plan.jobs], reference=False)
    return plan


def default_cache(bundle: Bundle, platform: Platform) -> Path:
    """Where kernel timings of this device and this TensorRT are kept."""
    from tofe_export.trt.plan import FOLDER, engine_name

    return bundle.path / FOLDER / f"{engine_name('timing', platform.device, platform.features.text)}.cache"


def build_all(
    bundle: Bundle, plan: Plan, platform: Platform, cache: Path, force: bool
) -> tuple[list[tuple[EngineFile, bool]], trt_report.Failures]:
    """Build or keep every job's engine (True: kept), with progress; what failed comes back beside them."""
    engines: list[tuple[EngineFile, bool]] = []
    failures: trt_report.Failures = []
    with console.progress("trt", len(plan.jobs)) as progress:
        for job in plan.jobs:
            kept = None if force else kept_engine(bundle, job, platform)
            try:
                engine = kept or build_one(bundle, job, platform, cache, progress)
                engines.append((engine, kept is not None))
            except (BuildFailed, PrecisionError) as error:
                progress.clear()
                console.warn(str(error))
                failures.append((job.name, error))
            progress.advance(what=job.name)
    return engines, failures


def kept_engine(bundle: Bundle, job: Job, platform: Platform) -> EngineFile | None:
    """An engine of this job that is there, fits, is whole, and was made with the same options."""
    from tofe_export.trt.engines import engine_here

    engine = engine_here(bundle, job.variant, platform.device, platform.features, job.probe)
    if engine is None:
        return None
    made = engine.sidecar
    if (made.options, made.typing, made.graph) != (job.options, job.typing, job.graph):
        return None
    try:
        engine.load()
    except BundleError as error:
        console.note(str(error))
        return None
    return engine


def leave() -> NoReturn:
    """End the process as it is, under a thread of TensorRT's that cannot be stopped."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def stored_timings(cache: Path) -> bytes:
    """What an earlier build left, or nothing. Raises InputError."""
    try:
        return cache.read_bytes() if cache.is_file() else b""
    except OSError as error:
        raise InputError(
            f"the timing cache {cache} cannot be read: {error.strerror or error}. Change its permissions, or "
            "name another by --timing-cache"
        ) from error


def build_one(
    bundle: Bundle, job: Job, platform: Platform, cache: Path, progress: console.Progress
) -> EngineFile:
    """Build and write one engine, and the timings that the next one starts from."""
    from tofe_export.files import write_atomic
    from tofe_export.trt.builder import build
    from tofe_export.trt.engines import write_engine
    from tofe_export.trt.monitor import LeftRunning

    def on_tick(stage: str) -> None:
        progress.show(f"{job.name}: {stage}")

    def on_stop() -> None:
        progress.clear()
        waits = "" if platform.features.progress else " when this engine is done; Ctrl-C again leaves at once"
        console.warn(f"stopping{waits}. Nothing of {job.name} is written")

    timings = stored_timings(cache)
    try:
        outcome = build(bundle, job, platform, timings, on_tick, on_stop)
    except LeftRunning:
        progress.clear()
        console.fail(f"interrupted. Nothing of {job.name} is written")
        leave()
    engine = write_engine(bundle, outcome.built)
    if outcome.timing_cache != timings:
        write_atomic(cache, outcome.timing_cache)
    progress.clear()
    facts = outcome.built.sidecar
    console.note(f"{job.name}: built in {facts.seconds:.0f} s, {size(facts.plan_bytes)}")
    if outcome.warnings:
        console.note(f"  TensorRT warned {len(outcome.warnings)} times, first: {outcome.warnings[0].strip()}")
    return engine
