"""Engines of a FAKE TensorRT through the whole command: what is opened, timed, told apart and given back.

The fake keeps no time: its events always say 1.5 ms. Nothing here is a latency.
"""

from __future__ import annotations

import json
from pathlib import Path

import fake_tensorrt
import pytest
import tiny_bundle
from click.testing import CliRunner, Result

from tofe_export.bench.timing import Launchable
from tofe_export.bundle import Bundle
from tofe_export.cli import main

FP32, FP16 = "0.01g-scatter-fp32-b1", "0.01g-scatter-fp16-b1"
QUICK = ("--iterations", 8, "--warmup", 1)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> fake_tensorrt.FakeModule:
    return fake_tensorrt.install(monkeypatch, "10.3")


@pytest.fixture
def folder(trt: fake_tensorrt.FakeModule, tmp_path: Path) -> Path:
    """The tiny bundle with engines of all its variants."""
    folder = tiny_bundle.write_bundle(tmp_path / "bundle")
    assert run("trt", folder, "--quiet").exit_code == 0
    return folder


def test_engines_are_timed_by_events(folder: Path) -> None:
    result = run("bench", folder, *QUICK, "--json", "-")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    assert data["settings"]["backend"] == "tensorrt"
    assert data["settings"]["cuda_graph"] is True
    assert data["machine"]["identity"]["gpu"] == "FAKE GPU"
    assert [found["variant"]["name"] for found in data["comparisons"]] == [FP32, FP16]
    for found in data["comparisons"]:
        assert found["clock"] == "cuda events"
        assert found["variant"]["latency"]["median_ms"] == 1.5  # the fake's events
        assert found["variant"]["with_copies"]["median_ms"] > 0
        assert found["speedup_with_copies"]["rounds"] == 8
        assert (found["speedup"]["value"], found["verdict"]) == (1.0, "no difference shown")


@pytest.mark.parametrize(("option", "graphs"), [("--cuda-graph", 3), ("--no-cuda-graph", 0)])
def test_a_cuda_graph_is_recorded_once_per_session(
    folder: Path, trt: fake_tensorrt.FakeModule, option: str, graphs: int
) -> None:
    calls = trt.cudart.calls
    del calls[:]
    result = run("bench", folder, *QUICK, option, "--variant", FP16, "--json", "-")
    assert result.exit_code == 0, result.stderr
    assert calls.count("cudaStreamBeginCapture") == graphs
    assert json.loads(result.stdout)["settings"]["cuda_graph"] is bool(graphs)
    assert calls.count("cudaEventCreate") == calls.count("cudaEventDestroy") == 6
    assert trt.cudart.live == {}


def test_a_session_of_tensorrt_is_launchable(folder: Path) -> None:
    from tofe_export.runtime.tensorrt import open_engine

    bundle = Bundle.open(folder)
    with open_engine(bundle, bundle.variant(FP32)) as session:
        assert isinstance(session, Launchable)


def test_without_the_dense_engine_nothing_is_compared(folder: Path) -> None:
    for file in (folder / "engines").glob("dense-*"):
        file.unlink()
    result = run("bench", folder, *QUICK)
    assert result.exit_code == 5
    assert f"such as {FP32} and dense-fp32-b1. Build them: tofe-export trt" in result.stderr
    named = run("bench", folder, *QUICK, "--variant", FP32)
    assert named.exit_code == 5
    assert "dense-fp32-b1" in named.stderr


def test_threads_are_not_for_engines(folder: Path) -> None:
    result = run("bench", folder, *QUICK, "--threads", 2)
    assert result.exit_code == 2
    assert "--threads is for ONNX Runtime's CPU provider" in result.stderr
