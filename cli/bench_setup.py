"""What `bench` settles before it measures: pairs, backend, options that would do nothing, and the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tofe_export.cli import bundles, console
from tofe_export.errors import MissingBackend, UsageError

if TYPE_CHECKING:
    from tofe_export.bench.document import Saved
    from tofe_export.bench.pairs import Pair
    from tofe_export.bench.rounds import Plan
    from tofe_export.bench.sides import How
    from tofe_export.bundle import Bundle
    from tofe_export.runtime.choice import Choice

_FULL_PRECISION = ("fp32", "int8")  # what a processor computes as it is
Measured = TypeVar("Measured")  # a pair, or a rung

OPENINGS = 3
"""On a processor, where memory happens to lie makes a few per cent, and differs from opening to opening."""


def on_target(context: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """A file to write after measuring: its folder must be there before."""
    if value is not None and not value.absolute().parent.is_dir():
        folder = value.absolute().parent
        raise click.BadParameter(f"there is no folder {folder}; create it first", context, param)
    return value


def plan_of(seconds: float | None, iterations: int | None, warmup: int, openings: int | None) -> Plan:
    """How long to measure, and in how many openings. Raises `UsageError`."""
    from tofe_export.bench.rounds import Plan

    if seconds is not None and iterations is not None:
        raise UsageError("--seconds and --iterations both say how long to measure: give one of them")
    plan = Plan(iterations=iterations, warmup=warmup, openings=openings or 1)
    return plan if seconds is None else replace(plan, seconds=seconds)


def choose(
    bundle: Bundle,
    against: str,
    backend: str | None,
    provider: str | None,
    filters: Mapping[str, Any],
    alone_too: bool = False,
) -> tuple[list[Pair], Choice]:
    """The pairs, and the backend that runs both sides of each. Raises `UsageError`, `MissingBackend`.

    With `alone_too` there need be no pair: what was picked is there for rivals to be measured against.
    """
    from tofe_export.bench.pairs import pairs_of

    picked = bundles.variants_of(bundle, filters)
    if alone_too and all(variant.dense or variant.name == against for variant in picked):
        return [], bundles.choose_backend(bundle, picked, backend, provider, bool(filters["names"]))
    pairs = pairs_of(bundle, picked, against)
    sides = {side.name: side for pair in pairs for side in (pair.variant, pair.against)}
    named = bool(filters["names"])
    choice = bundles.choose_backend(bundle, list(sides.values()), backend, provider, named)
    there = {variant.name for variant in choice.variants}
    ready = [pair for pair in pairs if {pair.variant.name, pair.against.name} <= there]
    if not ready:
        raise MissingBackend(
            f"{bundle.path} has no engines here for both sides of a comparison, such as "
            f"{pairs[0].variant.name} and {pairs[0].against.name}. Build them: tofe-export trt {bundle.path}"
        )
    if choice.provider == "cpu" and not (named or filters["precisions"]):
        ready = full_precision(ready, lambda pair: pair.variant.precision)
    return ready, choice


def full_precision(found: list[Measured], precision_of: Callable[[Measured], str]) -> list[Measured]:
    """Without half precision, which a processor only imitates, unless there is nothing else."""
    full = [one for one in found if precision_of(one) in _FULL_PRECISION]
    left = sorted({precision_of(one) for one in found} - set(_FULL_PRECISION))
    if full and left:
        console.note(
            f"left out {', '.join(left)}: ONNX Runtime imitates it on a processor (--precision measures it "
            "all the same)"
        )
    return full or found


def how_of(
    choice: Choice, run_batch: int | None, threads: int | None, cuda_graph: bool | None, pairs: Sequence[Pair]
) -> How:
    """How the sides are run. Raises `UsageError` for an option that would do nothing."""
    from tofe_export.bench.sides import How
    from tofe_export.manifest import DYNAMIC

    if threads is not None and choice.provider != "cpu":
        raise UsageError(
            f"--threads is for ONNX Runtime's CPU provider, and {choice.provider} computes: leave it out"
        )
    if cuda_graph is not None and choice.backend != "tensorrt":
        raise UsageError(f"--cuda-graph is for TensorRT engines, and {choice.backend} runs: leave it out")
    if run_batch is not None and not any(pair.variant.batch == DYNAMIC for pair in pairs):
        found = ", ".join(sorted({str(pair.variant.batch) for pair in pairs}))
        these = f"these have {found}. Use --batch" if pairs else "only rivals are measured: leave it out"
        raise UsageError(f"--run-batch is for variants with a dynamic batch; {these}")
    on = True if cuda_graph is None else cuda_graph
    return How(choice.backend, choice.provider, threads, cuda_graph=on, batch=run_batch or 1)


def look(
    choice: Choice, saved: Saved | None, how: How, bundle: Bundle, pairs: Sequence[Pair] = ()
) -> dict[str, Any]:
    """The machine before it measures, after refusing a saved run of another one. Raises `UsageError`."""
    from tofe_export.bench import machine

    if choice.backend == "tensorrt":
        from tofe_export.trt.platform import Platform

        here = Platform.here()
        facts: dict[str, Any] = dict(machine.facts(here.device))
        facts["versions"]["tensorrt"] = here.features.text
    else:
        facts = dict(machine.facts())
    if saved is not None:
        saved.require(facts, how, bundle, pairs)
    facts["before"] = machine.now(facts["identity"]["gpu"])
    load, cores = facts["before"]["load_average"][0], facts["identity"]["cores"]
    if load > cores / 2:
        console.warn(f"this machine is busy (load {load:.1f} on {cores} cores): latencies will be too high")
    return facts
