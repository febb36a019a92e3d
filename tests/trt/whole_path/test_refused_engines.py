"""Engines that do not belong here, on a FAKE TensorRT: refused with the reason before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest
from command_line import REDUCED_16, REDUCED_32, change_weights, run

Install = Callable[..., fake_tensorrt.FakeModule]

ONE = pytest.mark.parametrize("version", ["10.3"])  # nothing here depends on it, and all would take long


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


def pair(bundle: Path, name: str) -> tuple[Path, Path]:
    """Plan and sidecar of a product engine."""
    (plan,) = (bundle / "engines").glob(f"{name}.fake-gpu.*.plan")
    return plan, plan.with_suffix(".json")


def swap(first: Path, second: Path) -> None:
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)


@ONE
def test_plans_of_two_variants_are_swapped(trt: fake_tensorrt.FakeModule, built: Path, picture: Path) -> None:
    swap(pair(built, REDUCED_32)[0], pair(built, REDUCED_16)[0])
    for command in (("verify", built), ("predict", built, picture), ("bench", built, "--iterations", 6)):
        refused = run(*command)
        assert (refused.exit_code, refused.stdout) == (4, ""), command
        assert "the plan was changed" in refused.stderr or "the plan is truncated" in refused.stderr


@ONE
def test_engines_of_two_variants_are_swapped(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    for one, other in zip(pair(built, REDUCED_32), pair(built, REDUCED_16), strict=True):
        swap(one, other)
    refused = run("verify", built, "--backend", "tensorrt", "--variant", REDUCED_16)
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert f"no engine of {REDUCED_16}" in refused.stderr


def test_a_float32_engine_that_is_called_half(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    """Parity alone would not tell: its answers are better than half precision's."""
    plan, sidecar = pair(built, REDUCED_32)
    data = json.loads(sidecar.read_text()) | {"variant": REDUCED_16}
    for old, new in zip(pair(built, REDUCED_16), (plan.read_bytes(), None), strict=True):
        old.write_bytes(new or json.dumps(data).encode())
    refused = run("verify", built, "--variant", REDUCED_16, "--backend", "tensorrt")
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert f"it was built from variants/{REDUCED_32}.onnx" in refused.stderr
    made = run("trt", built, "--variant", REDUCED_16)
    assert made.exit_code == 0
    assert trt.built == 1  # and nothing was kept


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"verdict": "not honoured"}, "its sidecar says fp32 not honoured"),
        ({"tensorrt": "newest"}, "tensorrt: expected a version, found 'newest'"),
        ({"probe": True}, f"no engine of {REDUCED_32}"),
        ({"variant": "dense-fp32-b1"}, f"no engine of {REDUCED_32}"),
        ({"plan_sha256": "0" * 64}, "the plan was changed"),
        ({"plan_bytes": 1}, "expected 1 bytes, found"),
    ],
)
@ONE
def test_an_edited_sidecar(
    trt: fake_tensorrt.FakeModule, built: Path, edit: dict[str, Any], reason: str
) -> None:
    _, sidecar = pair(built, REDUCED_32)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | edit))
    refused = run("verify", built, "--backend", "tensorrt", "--variant", REDUCED_32)
    assert refused.exit_code in (4, 5)
    assert refused.stdout == ""
    assert reason in refused.stderr


@ONE
def test_a_plan_without_its_sidecar_is_no_engine(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    pair(built, REDUCED_32)[1].unlink()
    refused = run("verify", built, "--variant", REDUCED_32)
    assert refused.exit_code == 0  # by ONNX Runtime, and said so
    assert "cannot run here, so ONNX Runtime runs its graphs" in refused.stderr
    assert run("verify", built, "--variant", REDUCED_32, "--backend", "tensorrt").exit_code == 5


@ONE
def test_a_build_that_was_cut_off_between_plan_and_sidecar(
    trt: fake_tensorrt.FakeModule, built: Path
) -> None:
    plan, sidecar = pair(built, REDUCED_32)
    stale = sidecar.read_text()
    assert run("trt", built, "--variant", REDUCED_32, "--opt-level", 5, "--force").exit_code == 0
    plan.write_bytes(plan.read_bytes() + b"newer")
    sidecar.write_text(stale)
    refused = run("verify", built, "--variant", REDUCED_32)
    assert (refused.exit_code, refused.stdout) == (4, "")


@ONE
def test_the_sidecar_of_another_device_under_this_ones_name(
    install: Install, version: str, built: Path
) -> None:
    install(version, gpu="FAKE other GPU")
    assert run("trt", built, "--variant", REDUCED_32).exit_code == 0
    other = next((built / "engines").glob(f"{REDUCED_32}.fake-other-gpu.*.json"))
    text = other.read_text()
    for file in (built / "engines").glob("*fake-other-gpu*"):
        file.unlink()
    install(version)
    pair(built, REDUCED_32)[1].write_text(text)
    refused = run("verify", built, "--backend", "tensorrt", "--variant", REDUCED_32)
    assert refused.exit_code == 5
    assert "it was built on FAKE other GPU" in refused.stderr


@ONE
def test_a_probe_of_an_older_graph_is_not_looked_at(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    """The bundle was exported again and the product built again, without --probe."""
    change_weights(built, REDUCED_32)
    assert run("trt", built, "--variant", REDUCED_32).exit_code == 0
    judged = run("verify", built, "--variant", REDUCED_32)
    assert judged.exit_code == 1  # the weights are wrong
    assert "kept tokens not seen, since no probe was built here" in judged.stdout
