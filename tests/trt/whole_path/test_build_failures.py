"""Builds that fail on a FAKE TensorRT: found, named, with their exit code, and nothing is written."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import fake_tensorrt
import pytest
from command_line import REDUCED_16, REDUCED_32, plans, run

from tofe_export.files import sha256_file


def test_a_build_that_fails(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    trt.script.build_errors = ["Error Code 9: Internal Error (FAKE kernels are all broken)"]
    made = run("trt", bundle, "--fp32")
    assert made.exit_code == 6
    assert "FAKE kernels are all broken" in made.stderr
    assert "2 of 2 engines were not built" in made.stderr
    assert plans(bundle) == []
    assert "honoured" not in made.output


def test_memory_runs_out(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    trt.script.build_errors = fake_tensorrt.OUT_OF_MEMORY
    made = run("trt", bundle, "--variant", REDUCED_32)
    assert made.exit_code == 6
    assert "too little free memory" in made.stderr
    assert "Could not find any implementation" in made.stderr
    assert plans(bundle) == []


def test_the_parser_refuses_a_node(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    trt.script.parser_error = "FAKE dislike of Conv"
    made = run("trt", bundle, "--variant", REDUCED_32)
    assert made.exit_code == 6
    assert "FAKE dislike of Conv" in made.stderr
    assert ("stem/Conv" if trt.version != "8.6" else "node 0") in made.stderr
    assert plans(bundle) == []


def test_a_precision_that_did_not_happen(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    if trt.version == "8.6":
        trt.script.ignore_precision = True  # the flag is set, the engine is float32
    else:  # the graph that is called fp16 has no half tensor in it
        path = bundle / f"variants/{REDUCED_16}.onnx"
        shutil.copy(bundle / f"variants/{REDUCED_32}.onnx", path)
        manifest = json.loads((bundle / "manifest.json").read_text())
        for variant in manifest["variants"]:
            if variant["name"] == REDUCED_16:
                variant["sha256"] = sha256_file(path)
        (bundle / "manifest.json").write_text(json.dumps(manifest))
    made = run("trt", bundle, "--variant", REDUCED_16)
    assert made.exit_code == 7
    assert "fp16 was asked for and was not honoured" in made.stderr
    assert plans(bundle) == []


def test_an_inspector_that_contradicts_the_network(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    if trt.version == "8.6":
        pytest.skip("8.6 has no strongly typed networks; there the inspector is the proof")
    assert "inspector names none" not in run("trt", bundle, "--fp16").stderr
    trt.script.ignore_precision = True
    made = run("trt", bundle, "--variant", REDUCED_16, "--force")
    assert made.exit_code == 0
    assert f"{REDUCED_16}: the network that was built has" in made.stderr
    assert "inspector names none in the engine" in made.stderr
    trt.script.ignore_precision = False
    again = run("trt", bundle, "--variant", REDUCED_16)
    assert "inspector names none in the engine" in again.stderr  # it is kept, and so is the doubt
    assert run("trt", bundle, "--fp32").stderr.count("inspector names none") == 0


def test_ctrl_c_while_building(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    trt.script.interrupt = True
    made = run("trt", bundle)
    assert made.exit_code == 130
    assert plans(bundle) == []
    assert "stopping" in made.stderr
    assert list((bundle / "engines").glob("*")) == [] or not (bundle / "engines").exists()


def test_no_tensorrt(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for command in (("trt", bundle), ("verify", bundle, "--backend", "tensorrt")):
        refused = run(*command)
        assert (refused.exit_code, refused.stdout) == (5, "")
        assert "Install" in refused.stderr
    assert run("verify", bundle, "--variant", REDUCED_32).exit_code == 0  # no engines: ONNX Runtime by itself
