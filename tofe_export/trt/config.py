"""How the builder is configured: memory, effort, flags, profiles, and the timing cache.

TF32 is on by default in TensorRT: float32 products are then rounded to 10 bits of mantissa, like half
precision. That would take the selectors' float32 scores and the meaning of --fp32 away, so it is cleared in
every engine. The verbosity is always DETAILED, because only then the inspector tells precisions.
"""

from __future__ import annotations

from tofe_export.errors import BuildFailed, UsageError
from tofe_export.trt.api import Builder, BuilderConfig, HostMemory, Network, Profile, Tensor, TimingCache, Trt
from tofe_export.trt.compat import Features
from tofe_export.trt.request import Job

MIB = 1 << 20


def configure(trt: Trt, features: Features, builder: Builder, network: Network, job: Job) -> BuilderConfig:
    """A configuration for the job. Raises UsageError or BuildFailed for what cannot be set."""
    config: BuilderConfig = builder.create_builder_config()
    options = job.options
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if job.typing == "weak":
        _allow(trt, features, config, job.variant.precision)
    if options.profile is not None:
        _add_profile(builder, config, network, options.profile)
    return config


def flags_of(job: Job) -> list[str]:
    """The flags that `configure` sets or clears, for the sidecar."""
    flags = ["-TF32"]
    if job.typing == "strong":
        flags.append("STRONGLY_TYPED")
    if job.typing == "weak":
        flags += [job.variant.precision.upper(), "OBEY_PRECISION_CONSTRAINTS"]
    if job.options.version_compatible:
        flags.append("VERSION_COMPATIBLE")
    return flags


def _allow(trt: Trt, features: Features, config: BuilderConfig, precision: str) -> None:
    """Set the flag that allows a precision, and demand that held layers are."""
    if not features.weak_types:
        raise UsageError(f"TensorRT {features.text} has no precision flags: its types come from the graph")
    flags = {"fp16": trt.BuilderFlag.FP16, "int8": trt.BuilderFlag.INT8}
    config.set_flag(flags[precision])
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)


def _add_profile(
    builder: Builder, config: BuilderConfig, network: Network, batches: tuple[int, int, int]
) -> None:
    """One optimization profile: every input whose first size is dynamic gets the three batches."""
    profile: Profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor: Tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 in shape[1:]:
            raise BuildFailed(
                f"input {tensor.name} {shape}: expected at most the batch to be dynamic. Export again"
            )
        if shape[:1] == (-1,):
            profile.set_shape(tensor.name, *((batch, *shape[1:]) for batch in batches))
    if config.add_optimization_profile(profile) < 0:
        raise BuildFailed(f"TensorRT takes no profile of the batches {batches}: they must not decrease")


def use_timing_cache(config: BuilderConfig, stored: bytes) -> bool:
    """Let the builder start from stored kernel timings; False if they were of another device or TensorRT.

    A fresh cache is used then, so that `timings` has something to give in any case.
    """
    cache: TimingCache = config.create_timing_cache(stored)
    if cache is not None and config.set_timing_cache(cache, False):
        return True
    fresh: TimingCache = config.create_timing_cache(b"")
    config.set_timing_cache(fresh, False)
    return not stored


def timings(config: BuilderConfig) -> bytes:
    """The kernel timings after a build, to be stored."""
    cache: TimingCache = config.get_timing_cache()
    memory: HostMemory = cache.serialize()
    return bytes(memory)
