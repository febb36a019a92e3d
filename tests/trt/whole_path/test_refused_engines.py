"""Engines that do not belong here, on a FAKE TensorRT: refused with the reason before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest
from command_line import REDUCED_32, change_weights, run

Install = Callable[..., fake_tensorrt.FakeModule]


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        (
            {"gpu": "FAKE other GPU"},
            "it was built on FAKE GPU (compute capability 8.7), this is FAKE other GPU",
        ),
        ({"capability": (9, 0)}, "this is FAKE GPU (9.0)"),
    ],
)
def test_engines_of_another_gpu(
    install: Install, version: str, built: Path, device: dict[str, Any], reason: str
) -> None:
    install(version, **device)
    refused = run("verify", built, "--backend", "tensorrt")
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert reason in refused.stderr
    assert "tofe-export trt" in refused.stderr


def test_engines_of_another_tensorrt(install: Install, version: str, built: Path) -> None:
    other = install("10.3" if version != "10.3" else "10.13")
    refused = run("verify", built, "--backend", "tensorrt")
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert f"this is {other.__version__}" in refused.stderr
    by_itself = run("verify", built, "--variant", REDUCED_32, "--json", "-")
    assert by_itself.exit_code == 0
    assert "cannot run here, so ONNX Runtime runs its graphs" in by_itself.stderr
    assert json.loads(by_itself.stdout)["variants"][0]["backend"] == "onnxruntime"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-100], "the plan is truncated"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "the plan was changed"),
        (lambda data: b"x" * len(data), "expected a TensorRT plan, found something else"),
    ],
)
def test_a_damaged_plan(
    trt: fake_tensorrt.FakeModule, built: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    (plan,) = (built / "engines").glob(f"{REDUCED_32}.fake-gpu.*.plan")
    plan.write_bytes(damage(plan.read_bytes()))
    for command in (("verify", built, "--variant", REDUCED_32), ("verify", built)):
        refused = run(*command)
        assert (refused.exit_code, refused.stdout) == (4, "")
        assert reason in refused.stderr
    assert run("trt", built, "--variant", REDUCED_32).exit_code == 0  # builds it again
    assert trt.built == 1
    assert run("verify", built, "--variant", REDUCED_32).exit_code == 0


def test_the_graph_changed_since(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    change_weights(built, REDUCED_32)
    refused = run("verify", built, "--backend", "tensorrt", "--variant", REDUCED_32)
    assert refused.exit_code == 5
    assert "changed since it was built" in refused.stderr
