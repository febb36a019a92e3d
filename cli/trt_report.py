"""What `tofe-export trt` reports: a line per engine for people, every sidecar for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tofe_export.cli import console
from tofe_export.cli.inspect import size
from tofe_export.errors import TofeError

if TYPE_CHECKING:
    from tofe_export.bundle import Bundle
    from tofe_export.trt.engines import EngineFile
    from tofe_export.trt.jobs import Plan
    from tofe_export.trt.platform import Platform

Failures = list[tuple[str, TofeError]]


def report(
    bundle: Bundle,
    plan: Plan,
    platform: Platform,
    engines: Sequence[tuple[EngineFile, bool]],
    failures: Failures,
    json_target: str | None,
) -> None:
    """Print and write what there is now. Raises the first failure's kind, with all names."""
    console.say(table(engines))
    for engine, _ in engines:
        warn_of_contradiction(engine)
    if engines:
        console.say(f"\nBuilt is not verified: tofe-export verify {bundle.path}")
    console.emit(
        {
            "bundle": str(bundle.path),
            "tensorrt": platform.features.text,
            "device": platform.device.to_json(),
            "engines": [
                {**engine.sidecar.to_json(), "path": str(engine.path), "kept": kept}
                for engine, kept in engines
            ],
            "failed": [{"name": name, "error": str(error)} for name, error in failures],
            "left_out": list(plan.skipped),
        },
        json_target,
    )
    if failures:
        names = ", ".join(name for name, _ in failures)
        raise type(failures[0][1])(f"{len(failures)} of {len(plan.jobs)} engines were not built: {names}")


def warn_of_contradiction(engine: EngineFile) -> None:
    """Say it where a strongly typed network became an engine in which the inspector sees none of its type.

    The network's types are the proof, since TensorRT must keep them; but then its inspector contradicts it.
    """
    from tofe_export.trt.inspect import type_of

    facts = engine.sidecar
    asked = type_of(facts.precision)
    if facts.typing == "strong" and facts.layers.counts and not facts.layers.counts.get(asked):
        seen = ", ".join(f"{count} {name}" for name, count in sorted(facts.layers.counts.items()))
        console.warn(
            f"{facts.variant}: the network that was built has {facts.network.get(asked, 0)} {asked} layers, "
            f"but TensorRT's inspector names none in the engine ({seen}). Do not take it for {asked} before "
            "`tofe-export bench` has shown its speed; please report it"
        )


def table(engines: Sequence[tuple[EngineFile, bool]]) -> str:
    """One line per engine."""
    from tofe_export.trt.inspect import type_of

    rows = []
    for engine, kept in engines:
        facts = engine.sidecar
        share = facts.layers.share(type_of(facts.precision))
        rows.append(
            (
                f"{facts.variant} (probe)" if facts.probe else facts.variant,
                f"{facts.precision} {facts.verdict}",
                facts.typing,
                f"{share:.0%} of {sum(facts.layers.counts.values())}" if facts.layers.counts else "unknown",
                size(facts.plan_bytes),
                f"{facts.seconds:.0f}",
                "kept" if kept else "built",
                engine.path.name,
            )
        )
    headers = ("engine", "precision", "typing", "layers", "plan", "seconds", "", "file")
    return console.table(headers, rows, right=(4, 5))
