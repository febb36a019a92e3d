"""The result file: everything that was done, everything that was not, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from on_device.records import DONE, Records
from on_device.steps import Step
from tofe_export.bundle import Bundle

KIND = "tofe-export engines 1"
Facts = dict[str, Any]


def document(records: Records, steps: Sequence[Step], bundles: Sequence[Path], settings: Facts) -> Facts:
    """Figures by what they are about; each list holds finished steps only."""
    keys = [step.key for step in steps]
    done = {key: records.steps[key] for key in keys if records.is_done(key)}
    platform = records.platform or {}
    other = {key: records.steps[key] for key in keys if key in records.steps and key not in done}
    return {
        "kind": KIND,
        "tensorrt": platform.get("tensorrt"),
        "device": platform.get("device"),
        "settings": settings,
        "models": {path.name: _model(path) for path in bundles},
        "complete": len(done) == len(keys),
        "steps": {"done": len(done), "of": len(keys)},
        "failed": [{"step": key, **_without_result(record)} for key, record in other.items()],
        "not_tried": [key for key in keys if key not in records.steps],
        "engines": [
            {"model": key.split()[1], **engine}
            for key, r in done.items()
            if _is(r, "build")
            for engine in r["result"]
        ],
        "inspector": [
            {"unit": _unit(key), **one} for key, r in done.items() if _is(r, "inspect") for one in r["result"]
        ],
        # a verdict of "no" is a finding too: such steps are under "failed", and their figures are here
        "verify": [
            {"unit": _unit(key), **records.steps[key]["result"]}
            for key in keys
            if key.startswith("verify ") and (records.steps.get(key, {}).get("result") or {}).get("variants")
        ],
        "bench": [
            {"unit": _unit(key), "cuda_graph": r["kind"] == "bench on", **r["result"]}
            for key, r in done.items()
            if _is(r, "bench")
        ],
        "faults": [r["result"] for r in done.values() if _is(r, "fault")],
    }


def result_name(platform: Facts, slug: str) -> str:
    """`engines_<gpu>_<tensorrt>`."""
    return f"engines_{slug}_{platform['tensorrt']}"


def summary(facts: Facts) -> str:
    """A few lines for people."""
    steps = facts["steps"]
    lines = [f"{steps['done']} of {steps['of']} steps, {len(facts['engines'])} engines"]
    lines += [f"  failed: {one['step']}: {one.get('reason')}" for one in facts["failed"]]
    if facts["not_tried"]:
        lines.append(f"  not tried: {len(facts['not_tried'])}, first {facts['not_tried'][0]}")
    lines += [
        f"  {one['fault']}: exit {one['exit_code']}, expected {one['expected_exit_code']}"
        for one in facts["faults"]
        if one["as_expected"] is False
    ]
    lines += [
        f"  no explanation of: {one['tensorrt_lines'][0]}" for one in facts["faults"] if one["unexplained"]
    ]
    return "\n".join(lines)


def _is(record: Facts, kind: str) -> bool:
    return str(record["kind"]).startswith(kind)


def _unit(key: str) -> str:
    return key.rpartition(" ")[2]


def _without_result(record: Facts) -> Facts:
    assert record["status"] != DONE
    return {key: value for key, value in record.items() if key not in ("result", "kind")}


def _model(path: Path) -> Facts:
    model = Bundle.open(path).manifest.model
    return {
        "backbone": model.backbone,
        "checkpoint_sha256": model.checkpoint_sha256,
        "trained": model.trained,
    }
