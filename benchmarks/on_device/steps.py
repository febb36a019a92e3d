"""The steps of a run: each one command of the product (or a look at what it made), and what is kept of it.

A step never decides that something worked: the command's exit code does, and the figures are those that the
command wrote. Verifying and timing take the variants that were really built.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from on_device.commands import LOOK, TOFE, Ran, Runner
from on_device.records import DONE, FAILED, STOPPED, Record, Records
from on_device.units import Unit

STDERR = 4000  # characters of a failed command's last words that are kept
WHOLE = 2  # inspector answers kept whole per unit of the smallest batch: dense, and the first reduced variant
_ENGINE = (
    "variant", "probe", "precision", "verdict", "typing", "flags", "batch", "seconds", "plan", "plan_bytes",
    "plan_version", "network", "layers", "held_float32", "timing_cache", "twin", "options",
)  # fmt: skip
_COMPARISON = (
    "variant", "against", "batch", "clock", "speedup", "speedup_with_copies", "mac_ratio", "noise", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """What all steps need."""

    run: Runner
    work: Path
    records: Records
    seconds: float = 5.0  # of bench, per comparison


@dataclass(frozen=True)
class Step:
    """One thing to do. `act` takes the seconds that it may use and gives its record."""

    key: str
    kind: str
    act: Callable[[float], Record]
    plans: Callable[[], list[Path]] = field(default=lambda: [])  # files it made that later steps need
    followers: tuple[str, ...] = ()  # keys of those steps


def record_of(kind: str, ran: Ran, result: object, command: Sequence[str]) -> Record:
    """The record of a command: what it was, how it ended, what it gave."""
    status = STOPPED if ran.exit_code is None else DONE if ran.exit_code == 0 else FAILED
    record: Record = {"kind": kind, "status": status, "seconds": ran.seconds, "exit_code": ran.exit_code}
    record["command"] = " ".join(command)
    if status != DONE:
        record |= {"reason": ran.reason, "tensorrt_lines": ran.tensorrt_lines, "stderr": ran.stderr[-STDERR:]}
    return record | {"result": result}


def steps_of(bench: Bench, unit: Unit) -> list[Step]:
    """Build every engine, ask the inspector, verify, and time with and without a CUDA graph."""
    later = tuple(f"{kind} {unit.name}" for kind in ("inspect", "verify", "bench on", "bench off"))
    builds = [
        Step(
            f"build {unit.model} {name}",
            f"build b{unit.batch}",
            lambda limit, name=name: _build(bench, unit, name, limit),  # type: ignore[misc]  # a default binds it
            lambda name=name: plans_of(bench, unit, [name]),  # type: ignore[misc]
            later,
        )
        for name in unit.variants
    ]
    acts = (_inspect, _verify, _bench_on, _bench_off)
    return builds + [
        Step(key, key.removesuffix(f" {unit.name}"), lambda limit, act=act: act(bench, unit, limit))  # type: ignore[misc]
        for key, act in zip(later, acts, strict=True)
    ]


def built(bench: Bench, unit: Unit) -> list[str]:
    """The unit's variants that have an engine."""
    return [name for name in unit.variants if bench.records.is_done(f"build {unit.model} {name}")]


def plans_of(bench: Bench, unit: Unit, names: Iterable[str]) -> list[Path]:
    """The plans that `trt` said it wrote for these variants."""
    keys = [f"build {unit.model} {name}" for name in names]
    engines = [e for key in keys if bench.records.is_done(key) for e in bench.records.steps[key]["result"]]
    return [unit.bundle / "engines" / engine["plan"] for engine in engines]


def _build(bench: Bench, unit: Unit, name: str, limit: float) -> Record:
    probe = ["--probe"] if name in unit.probed else []
    cache = ["--timing-cache", str(bench.work / "timing.cache")]
    ran, data, command = tofe(bench, ["trt", str(unit.bundle), "--variant", name, *probe, *cache], limit)
    engines = [pick(engine, _ENGINE) | {"kept": engine["kept"]} for engine in data.get("engines", [])]
    return record_of(f"build b{unit.batch}", ran, engines, command)


def _inspect(bench: Bench, unit: Unit, limit: float) -> Record:
    plans = [str(plan) for plan in plans_of(bench, unit, built(bench, unit)) if plan.is_file()]
    if not plans:
        return nothing_built("inspect")
    whole = str(WHOLE if unit.first else 0)
    command = ["engines", *plans, "--out", str(bench.work / "inspector"), "--whole", whole]
    ran = bench.run(LOOK, command, limit)
    found = json.loads(ran.stdout)["engines"] if ran.exit_code == 0 else []
    return record_of("inspect", ran, found, [LOOK, "engines", unit.name])


def _verify(bench: Bench, unit: Unit, limit: float) -> Record:
    names = built(bench, unit)
    if not names:
        return nothing_built("verify")
    chosen = ["--variant", ",".join(names), "--backend", "tensorrt"]
    ran, data, command = tofe(bench, ["verify", str(unit.bundle), *chosen], limit)
    keys = (
        "name",
        "passed",
        "backend",
        "images",
        "checks",
        "stages",
        "output",
        "diagnosis",
        "three_way",
        "notes",
    )
    result = {
        "passed": data.get("passed"),
        "variants": [pick(variant, keys) for variant in data.get("variants", [])],
    }
    return record_of("verify", ran, result, command)


def _bench_on(bench: Bench, unit: Unit, limit: float) -> Record:
    return _time(bench, unit, limit, "on", "--cuda-graph")


def _bench_off(bench: Bench, unit: Unit, limit: float) -> Record:
    return _time(bench, unit, limit, "off", "--no-cuda-graph")


def _time(bench: Bench, unit: Unit, limit: float, graph: str, flag: str) -> Record:
    there = built(bench, unit)
    names = [name for name in there if name not in unit.dense]
    if not names or not unit.dense.intersection(there):
        return nothing_built(f"bench {graph}")
    options = ["--variant", ",".join(names), "--backend", "tensorrt", flag, "--seconds", str(bench.seconds)]
    ran, data, command = tofe(bench, ["bench", str(unit.bundle), *options], limit)
    result: dict[str, Any] = {"comparisons": [pick(c, _COMPARISON) for c in data.get("comparisons", [])]}
    if data:
        result |= {"settings": data["settings"], "before": data["machine"]["before"]}
        result["after"] = data["machine"]["after"]
    return record_of(f"bench {graph}", ran, result, command)


def nothing_built(kind: str) -> Record:
    """The record of a step that had nothing to work on."""
    return {
        "kind": kind,
        "status": FAILED,
        "seconds": 0.0,
        "exit_code": None,
        "reason": "no engine was built",
    }


def tofe(bench: Bench, arguments: list[str], limit: float) -> tuple[Ran, dict[str, Any], list[str]]:
    """Run a command of the product; its JSON ({} if it wrote none), and the command as a person types it."""
    target = bench.work / "answer.json"
    target.unlink(missing_ok=True)
    ran = bench.run(TOFE, [*arguments, "--json", str(target), "--quiet"], limit)
    try:
        data = json.loads(target.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        data = {}
    shown = [Path(word).name if word.startswith("/") else word for word in arguments]
    return ran, data, [TOFE, *shown]


def pick(data: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Those keys that are there."""
    return {key: data[key] for key in keys if key in data}
