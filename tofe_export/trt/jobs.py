"""Which engines one call of `tofe-export trt` builds.

Without a wish for a precision these are fp32 and fp16, as far as the bundle has them; bf16 and int8 are built
when asked for. The dense model is always among them, because the reduced ones are compared with it. A variant
that is not meant for this TensorRT (its `targets` in the manifest, which `lint` proved) is left out with a
remark, unless it was named.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError
from tofe_export.lint.targets import TARGETS, Target
from tofe_export.manifest import DYNAMIC, Variant
from tofe_export.trt.compat import Features
from tofe_export.trt.platform import Platform
from tofe_export.trt.request import BuildOptions, Job, host_command, make_job

DEFAULT_PRECISIONS = ("fp32", "fp16")
BF16_CAPABILITY = (8, 0)  # Ampere


@dataclass(frozen=True)
class Plan:
    """What to build, and what is left out and why."""

    jobs: tuple[Job, ...]
    skipped: tuple[str, ...]


def plan_jobs(
    bundle: Bundle,
    candidates: Sequence[Variant],
    precisions: Sequence[str],
    platform: Platform,
    options: BuildOptions,
    probe: bool = False,
    named: bool = False,
) -> Plan:
    """The jobs for these variants in these precisions; `named`: the user named the variants one by one.

    Raises UsageError: a precision without a graph (with the host's command), a profile or probes without a
    variant they apply to, or nothing left to build.
    """
    variants = choose(bundle, candidates, precisions, everything=named)
    for precision in {variant.precision for variant in variants}:
        _refuse_capability(precision, platform.device.compute_capability)
    if options.profile is not None and all(variant.batch != DYNAMIC for variant in variants):
        raise UsageError("--profile is for a dynamic batch, and none of these variants has one")
    jobs: list[Job] = []
    skipped: list[str] = []
    for variant in variants:
        job = make_job(bundle, variant, platform.features, options)
        source = bundle.variant(job.twin) if job.twin else variant
        if not named and not meant_for(source, platform.features):
            targets = ", ".join(source.targets) or "none"
            skipped.append(f"{variant.name}: meant for TensorRT {targets}; name it by --variant to build it")
            continue
        jobs.append(job)
        if probe and source.probe is not None:
            jobs.append(make_job(bundle, variant, platform.features, options, probe=True))
    _refuse_nothing(jobs, skipped, probe)
    return Plan(tuple(jobs), tuple(skipped))


def choose(
    bundle: Bundle, candidates: Sequence[Variant], precisions: Iterable[str], everything: bool = False
) -> list[Variant]:
    """The candidates of these precisions; without any, those of DEFAULT_PRECISIONS, or `everything`.

    Raises UsageError with the host's command for a precision that no candidate has.
    """
    wanted = list(dict.fromkeys(precisions))
    there = {variant.precision for variant in candidates}
    if missing := [precision for precision in wanted if precision not in there]:
        raise UsageError(
            f"{bundle.path} has no {' and no '.join(missing)} graph of these variants (it has "
            f"{', '.join(sorted(there)) or 'none'}). Graphs are typed on the host: "
            + host_command(bundle, missing)
        )
    if not wanted:
        wanted = [precision for precision in DEFAULT_PRECISIONS if precision in there and not everything]
    return [variant for variant in candidates if not wanted or variant.precision in wanted]


def with_dense(bundle: Bundle, picked: Sequence[Variant]) -> list[Variant]:
    """The picked variants and the dense ones of the same precision and batch, in manifest order."""
    kinds = {(variant.precision, variant.batch) for variant in picked}
    names = {variant.name for variant in picked}
    return [
        variant
        for variant in bundle.manifest.variants
        if variant.name in names or (variant.dense and (variant.precision, variant.batch) in kinds)
    ]


def meant_for(variant: Variant, features: Features) -> bool:
    """Whether the manifest names this TensorRT, or a checked version next to it, among the targets."""
    here = Target(*features.version[:2])
    exact = [target for target in TARGETS if target == here]
    below = [target for target in TARGETS if target < here][-1:]
    above = [target for target in TARGETS if target > here][:1]
    return any(target.version in variant.targets for target in exact or [*below, *above])


def _refuse_capability(precision: str, capability: str) -> None:
    if precision == "bf16" and tuple(map(int, capability.split("."))) < BF16_CAPABILITY:
        raise UsageError(
            f"bf16 needs compute capability 8.0 or newer (Ampere), this GPU has {capability}: build --fp16"
        )


def _refuse_nothing(jobs: Sequence[Job], skipped: Sequence[str], probe: bool) -> None:
    if not jobs:
        raise UsageError(f"nothing to build for this TensorRT: {'; '.join(skipped) or 'no variants'}")
    if probe and not any(job.probe for job in jobs):
        raise UsageError("--probe: none of these variants has a probe graph, since they select no tokens")
