"""From a job to a plan: one builder for TensorRT 8.6 to 11.x.

Parse, hold (8.6), configure, build, then look at what came out: the plan is loaded once by the same TensorRT,
its output is compared with the graph's, and the inspector says in which precisions the layers compute. Only
an engine that honours the precision it was asked for leaves this module; nothing is written here. TensorRT
reports failure by None and a line in its log, so every call's answer is checked and the lines come with the
error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from tofe_export import __version__
from tofe_export.bundle import Bundle
from tofe_export.errors import BuildFailed
from tofe_export.files import sha256_bytes
from tofe_export.trt.api import Builder, BuilderConfig, Engine, HostMemory, Inspector, Network, Runtime, Trt
from tofe_export.trt.config import configure, flags_of, timings, use_timing_cache
from tofe_export.trt.engines import Built
from tofe_export.trt.explain import with_lines
from tofe_export.trt.hold import hold_float32
from tofe_export.trt.inspect import Layers, judge, read_layers, require
from tofe_export.trt.log import Collector, Lines, logger_of
from tofe_export.trt.monitor import Stage, progress_monitor, run_stoppable
from tofe_export.trt.network import count_types, create_network, parse
from tofe_export.trt.plan import engine_name, plan_version
from tofe_export.trt.platform import Platform
from tofe_export.trt.request import Job
from tofe_export.trt.sidecar import Sidecar

UNKNOWN = "TensorRT gave no reason. Run again, and report it with the versions that `tofe-export trt` prints"


@dataclass(frozen=True)
class Outcome:
    """A built engine, what to keep for the next build, and what TensorRT warned of."""

    built: Built
    timing_cache: bytes
    warnings: list[str]


def build(
    bundle: Bundle,
    job: Job,
    platform: Platform,
    timing_cache: bytes = b"",
    tick: Callable[[str], None] = lambda stage: None,
    on_stop: Callable[[], None] = lambda: None,
) -> Outcome:
    """Build one engine; `tick` is called with the stage while TensorRT works, `on_stop` at the first Ctrl-C.

    Raises BuildFailed (TensorRT's lines and what they mean), PrecisionError (the precision did not happen),
    UsageError (not with this TensorRT), KeyboardInterrupt.
    """
    stage = Stage()
    return run_stoppable(lambda: _build(bundle, job, platform, timing_cache, stage), stage, tick, on_stop)


@dataclass(frozen=True)
class _Result:
    plan: bytes
    network: dict[str, int]
    held: int
    cache: bytes
    cache_use: str


def _build(bundle: Bundle, job: Job, platform: Platform, timing_cache: bytes, stage: Stage) -> Outcome:
    trt = platform.trt
    logger = logger_of(trt)
    started = time.monotonic()
    with logger.listening() as lines:
        result = _compile(bundle, job, platform, timing_cache, stage, logger, lines)
        seconds = time.monotonic() - started
        stage.set("inspecting the engine")
        layers = _inspect(trt, job, bundle.manifest.model.output, result.plan, logger, lines)
    weights = sum(file.bytes for file in bundle.manifest.weights if file.file in _weights_of(bundle, job))
    verdict = judge(job, layers, result.network, len(result.plan), weights)
    require(job, verdict, layers, result.network)
    name = engine_name(job.variant, platform.device, platform.features.text, job.probe)
    sidecar = Sidecar(
        tool_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        plan=f"{name}.plan",
        plan_bytes=len(result.plan),
        plan_sha256=sha256_bytes(result.plan),
        plan_version=plan_version(result.plan) or (),
        variant=job.variant.name,
        probe=job.probe,
        graph=job.graph,
        twin=job.twin,
        precision=job.variant.precision,
        typing=job.typing,
        batch=job.variant.batch,
        tensorrt=platform.features.text,
        device=platform.device,
        options=job.options,
        flags=tuple(flags_of(job)),
        seconds=round(seconds, 3),
        verdict=verdict,
        network=result.network,
        layers=layers,
        held_float32=result.held,
        timing_cache=result.cache_use,
    )
    return Outcome(Built(result.plan, sidecar), result.cache, lines.warnings)


def _compile(
    bundle: Bundle,
    job: Job,
    platform: Platform,
    stored: bytes,
    stage: Stage,
    logger: Collector,
    lines: Lines,
) -> _Result:
    """Parse, configure and build. TensorRT's objects live exactly as long as this call."""
    trt, features = platform.trt, platform.features
    builder = _builder(trt, logger, lines)
    stage.set("parsing")
    network: Network = create_network(trt, features, builder, job.typing == "strong")
    parser = parse(trt, features, network, bundle.file(job.graph.file), logger.handle, lines)
    types = count_types(trt, features, network)
    if job.typing == "strong":  # before minutes are spent on the wrong graph
        nothing = Layers({}, 0, 0, "not built")
        require(job, judge(job, nothing, types, 0, 0), nothing, types)
    half = job.typing == "weak" and job.variant.precision == "fp16"
    held = hold_float32(trt, features, network, job.hold_float32) if half else []
    config: BuilderConfig = configure(trt, features, builder, network, job)
    used = use_timing_cache(config, stored)
    if features.progress:
        monitor = progress_monitor(trt, features, stage)
        config.progress_monitor = monitor
    stage.set("building")
    memory: HostMemory = builder.build_serialized_network(network, config)
    if stage.stop.is_set():
        raise BuildFailed(f"{job.name}: stopped")
    if memory is None:
        raise BuildFailed(
            with_lines(f"TensorRT {features.text} could not build {job.name}", lines.everything, UNKNOWN)
        )
    cache_use = ("used" if stored else "empty") if used else "of another device or TensorRT, not used"
    result = _Result(bytes(memory), types, len(held), timings(config), cache_use)
    del parser  # it owns weights that the network points to
    return result


def _builder(trt: Trt, logger: Collector, lines: Lines) -> Builder:
    """A builder. Raises BuildFailed where TensorRT cannot make one: no usable GPU or driver."""
    try:
        builder: Builder = trt.Builder(logger.handle)
    except (TypeError, RuntimeError) as error:  # pybind11's "factory function returned nullptr"
        raise BuildFailed(
            with_lines(f"TensorRT makes no builder ({error})", lines.everything, UNKNOWN)
        ) from error
    return builder


def _inspect(trt: Trt, job: Job, output: str, plan: bytes, logger: Collector, lines: Lines) -> Layers:
    """Load the plan, check its output, count its layers' precisions. Raises BuildFailed."""
    runtime: Runtime = trt.Runtime(logger.handle)
    if job.options.version_compatible:
        runtime.engine_host_code_allowed = True  # the lean runtime inside a plan that was made right here
    engine: Engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildFailed(with_lines(f"{job.name}: the plan does not load", lines.everything, UNKNOWN))
    names = [str(engine.get_tensor_name(index)) for index in range(engine.num_io_tensors)]
    if output not in names or engine.get_tensor_dtype(output) != trt.DataType.FLOAT:
        found = ", ".join(f"{name} {engine.get_tensor_dtype(name)}" for name in names)
        raise BuildFailed(f"{job.name}: expected the output {output} in float32, found {found}. Export again")
    inspector: Inspector = engine.create_engine_inspector()
    return read_layers(str(inspector.get_engine_information(trt.LayerInformationFormat.JSON)))


def _weights_of(bundle: Bundle, job: Job) -> set[str]:
    """The weights files that the job's graph reads."""
    source = bundle.variant(job.twin) if job.twin else job.variant
    return set(source.weights) or {file.file for file in bundle.manifest.weights}
