"""Faults on the device: what does TensorRT really say, and does the product explain it?

Two kinds: graphs that were spoilt on the host (`exports.py`), and plans that are spoilt here, after a sound
one was built. A spoilt plan is shown to the product twice: as it is, when the sidecar refuses it before
TensorRT sees it (exit code 4), and with a sidecar that was made to fit, so that TensorRT itself must answer
(which `verify` reports as an engine that does not run, exit code 1).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from on_device.commands import Ran
from on_device.records import DONE, STOPPED, Record
from on_device.steps import Bench, Step, tofe
from on_device.units import Unit
from tofe_export.bundle import Bundle
from tofe_export.files import sha256_bytes
from tofe_export.trt.explain import explanations
from tofe_export.trt.plan import HEADER_BYTES, plan_version

KIND = "fault"
SAID = 3000  # characters
_MINOR = 25  # the byte of a plan's header that holds TensorRT's minor version

Spoil = Callable[[bytes], bytes]


def other_version(plan: bytes) -> bytes:
    """The header of the next minor version."""
    return plan[:_MINOR] + bytes([plan[_MINOR] + 1]) + plan[_MINOR + 1 :]


def truncated(plan: bytes) -> bytes:
    """The first half."""
    return plan[: max(len(plan) // 2, HEADER_BYTES)]


def no_plan(plan: bytes) -> bytes:
    """As many bytes that are no plan."""
    return b"x" * len(plan)


PLANS: dict[str, Spoil] = {"other version": other_version, "truncated": truncated, "not a plan": no_plan}
GRAPHS = {  # as `exports.PLANTED` names them: the exit code that is expected, None where nobody knows yet
    "scatternd-reduction": 6,
    "k-above-limit": None,
    "unknown-operator": 6,
    "unnamed-outputs": None,
}


@dataclass(frozen=True)
class Fault:
    """What was planted, and what should come of it."""

    name: str
    exit_code: int | None


def fault_steps(bench: Bench, folder: Path) -> list[Step]:
    """All faults of a folder that `exports.py faults` wrote; spoilt plans need the sound engine first."""
    whole = folder / "whole"
    if not (whole / "manifest.json").is_file():
        return []
    name = reduced(whole)
    sound, plans = f"{KIND} none", partial(engine_plans, whole, name)
    later = tuple(f"{KIND} plan {what}{how}" for what in PLANS for how in ("", ", sidecar fitted"))
    steps = [Step(sound, KIND, partial(_build, bench, whole, Fault("none", 0)), plans, later)]
    for fault, code in GRAPHS.items():
        if (folder / fault).is_dir():
            act = partial(_build, bench, folder / fault, Fault(fault, code))
            steps.append(Step(f"{KIND} graph {fault}", KIND, act))
    for what, spoil in PLANS.items():
        for how in ("", ", sidecar fitted"):
            key = f"{KIND} plan {what}{how}"
            act = partial(
                _load, bench, whole, Fault(key.removeprefix(f"{KIND} "), 1 if how else 4), spoil, bool(how)
            )
            steps.append(Step(key, KIND, act))
    return steps


def workspace_step(bench: Bench, unit: Unit) -> Step:
    """The dense model of the largest batch with 1 MiB of scratch memory, in a copy without engines."""
    name = next(iter(unit.dense))

    def act(limit: float) -> Record:
        copy = bench.work / "planted" / "workspace"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(unit.bundle, copy, ignore=shutil.ignore_patterns("engines"), copy_function=_link)
        command = ["trt", str(copy), "--variant", name, "--workspace", "1"]
        return _said(bench, command, Fault(f"workspace of 1 MiB for {unit.model} {name}", None), limit)

    return Step(f"{KIND} workspace", KIND, act)


def reduced(bundle: Path) -> str:
    """The variant that the faults are planted in."""
    variants = Bundle.open(bundle).manifest.variants
    return next(v.name for v in variants if v.lowering == "scatter" and v.precision == "fp32")


def engine_plans(bundle: Path, name: str) -> list[Path]:
    """The plans of a variant, without its probes; a path that is not there where there is none."""
    found = [path for path in (bundle / "engines").glob(f"{name}.*.plan") if ".probe." not in path.name]
    return sorted(found) or [bundle / "engines" / f"{name}.plan"]


def _build(bench: Bench, bundle: Path, fault: Fault, limit: float) -> Record:
    return _said(bench, ["trt", str(bundle), "--variant", reduced(bundle)], fault, limit)


def _load(bench: Bench, whole: Path, fault: Fault, spoil: Spoil, fit: bool, limit: float) -> Record:
    copy = bench.work / "planted" / fault.name.replace(" ", "-").replace(",", "")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    name = reduced(copy)
    plan = engine_plans(copy, name)[0]
    spoil_plan(plan, spoil, fit)
    return _said(bench, ["verify", str(copy), "--variant", name, "--backend", "tensorrt"], fault, limit)


def spoil_plan(plan: Path, spoil: Spoil, fit: bool) -> None:
    """Change a plan; with `fit` its sidecar agrees. Raises OSError where there is no plan."""
    data = spoil(plan.read_bytes())
    plan.write_bytes(data)
    if fit:
        path = plan.with_suffix(".json")
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        sidecar |= {"plan_bytes": len(data), "plan_sha256": sha256_bytes(data)}
        sidecar["plan_version"] = plan_version(data) or ()
        path.write_text(json.dumps(sidecar), encoding="utf-8")


def _said(bench: Bench, command: list[str], fault: Fault, limit: float) -> Record:
    ran, _, shown = tofe(bench, command, limit)
    return heard(ran, shown, fault)


def heard(ran: Ran, command: list[str], fault: Fault) -> Record:
    """The record of a fault: a refusal is what was wanted, so only running out of time is no answer."""
    lines = ran.tensorrt_lines
    result = {
        "fault": fault.name,
        "exit_code": ran.exit_code,
        "expected_exit_code": fault.exit_code,
        "as_expected": None if fault.exit_code is None else ran.exit_code == fault.exit_code,
        "said": f"{ran.stdout}{ran.stderr}"[-SAID:],
        "tensorrt_lines": lines,
        "explained": explanations(lines),
        "unexplained": bool(lines) and not explanations(lines),
    }
    record: Record = {"kind": KIND, "status": STOPPED if ran.exit_code is None else DONE}
    if ran.exit_code is None:
        record["reason"] = ran.reason
    return record | {"seconds": ran.seconds, "command": " ".join(command), "result": result}


def _link(source: str, target: str) -> None:
    """Copy without copying: the files are only read."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
