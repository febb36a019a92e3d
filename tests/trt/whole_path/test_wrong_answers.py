"""Engines of a FAKE TensorRT that answer wrongly or not at all: verify fails and names the culprit."""

from __future__ import annotations

import json
from pathlib import Path

import fake_tensorrt
import pytest
from command_line import REDUCED_16, REDUCED_32, change_weights, run


def test_wrong_results_are_the_compilers(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    trt.script.gain = 1.2
    judged = run("verify", built, "--variant", REDUCED_32, "--json", built / "verify.json")
    assert judged.exit_code == 1
    assert "what TensorRT compiled is wrong [compiler]" in judged.stdout
    assert f"no parity with PyTorch: 1 of 1 variants ({REDUCED_32}) failed" in judged.stderr
    (variant,) = json.loads((built / "verify.json").read_text())["variants"]
    assert [view["passed"] for view in variant["three_way"]["views"]] == [False, True]
    assert run("verify", built, "--variant", REDUCED_32, "--backend", "onnxruntime").exit_code == 0


def test_wrong_results_in_half_precision(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    trt.script.gain = 1.2
    judged = run("verify", built, "--variant", REDUCED_16)
    assert judged.exit_code == 1
    weak = trt.version == "8.6"
    assert ("half precision as TensorRT places it" if weak else "the manifest has no evaluation") in (
        judged.stdout
    )


def test_answers_that_are_no_numbers(trt: fake_tensorrt.FakeModule, built: Path, picture: Path) -> None:
    trt.script.not_finite = True
    judged = run("verify", built, "--json", built / "verify.json")
    assert judged.exit_code == 1
    assert "NaN" in judged.stdout
    assert "[non-finite;" in judged.stdout
    assert not any(item["passed"] for item in json.loads((built / "verify.json").read_text())["variants"])
    assert "not finite" in run("predict", built, picture).stderr


def test_a_wrong_graph_is_not_the_compilers(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    change_weights(bundle, REDUCED_32)
    assert run("trt", bundle, "--variant", REDUCED_32, "--probe").exit_code == 0
    judged = run("verify", bundle, "--variant", REDUCED_32)
    assert judged.exit_code == 1
    assert "the graph is wrong [graph]" in judged.stdout


def test_a_wrong_typing_is_not_the_compilers(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    if trt.version == "8.6":
        pytest.skip("8.6 does not use typed graphs")
    change_weights(bundle, REDUCED_16)
    assert run("trt", bundle, "--variant", REDUCED_16, "--probe").exit_code == 0
    judged = run("verify", bundle, "--variant", REDUCED_16)
    assert judged.exit_code == 1
    assert "the typing is wrong [typing]" in judged.stdout


def test_a_plan_that_tensorrt_refuses(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    trt.script.refuse_plan = ["Serialization assertion failed. Version tag does not match. FAKE"]
    judged = run("verify", built, "--variant", REDUCED_32)
    assert judged.exit_code == 1
    assert "the plan was made by another TensorRT" in judged.stdout
    assert "[does-not-run; the graph]" in judged.stdout


def test_an_engine_that_does_not_run(trt: fake_tensorrt.FakeModule, built: Path, picture: Path) -> None:
    trt.script.run_errors = ["Error Code 1: Cuda Runtime (an illegal memory access was encountered) FAKE"]
    assert run("verify", built, "--variant", REDUCED_32).exit_code == 1
    refused = run("predict", built, picture)
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "illegal memory access" in refused.stderr
