"""Each side alone: what the fresh process is asked, and what comes of its answer."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tofe_export.bench.alone import Request, in_fresh_process, measure_alone
from tofe_export.bench.pairs import Pair
from tofe_export.bench.rounds import Plan
from tofe_export.bench.sides import How
from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, UsageError


@pytest.fixture
def pair(bundle: Bundle) -> Pair:
    return Pair(bundle.variant("2.00g-scatter-fp32-b1"), bundle.variant("dense-fp32-b1"))


def test_both_sides_are_asked_with_the_defaults(bundle: Bundle, pair: Pair) -> None:
    asked: list[Request] = []

    def run(request: Request) -> dict[str, Any]:
        asked.append(request)
        json.dumps(asdict(request))
        return {"latency": {"median_ms": 30.0 if request.variant.startswith("dense") else 12.0}}

    plan = Plan(iterations=20)
    found = measure_alone(bundle, pair, How("onnxruntime", "cpu", threads=2), plan, run)
    assert [request.variant for request in asked] == [pair.variant.name, pair.against.name]
    assert {(request.how.spinning, request.how.threads, request.plan) for request in asked} == {
        (True, 2, plan)
    }
    assert found["ratio"] == 2.5


def test_errors_of_the_child_are_errors_here(bundle: Bundle) -> None:
    how, plan = How("onnxruntime", "cpu"), Plan(iterations=6)
    with pytest.raises(UsageError, match="no variant 'x'"):
        in_fresh_process(Request(str(bundle.path), "x", how, plan))
    with pytest.raises(BundleError, match="expected a bundle"):
        in_fresh_process(Request(str(bundle.path / "none"), "x", how, plan))


def test_a_child_that_dies_is_not_hidden(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho out of memory >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))
    with pytest.raises(RuntimeError, match="ended with 3:\nout of memory"):
        in_fresh_process(Request(str(bundle.path), "x", How("onnxruntime", "cpu"), Plan()))
