"""`benchmarks/engines.py` on a FAKE TensorRT: what it does, what it keeps, and what it does not claim."""

from __future__ import annotations

import gzip
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import engines
import fake_tensorrt
import machine
import onnxruntime
import pytest
import tiny_bundle
from click.testing import CliRunner
from on_device import exports, look
from on_device.commands import EXPORT, LOOK, Ran, processes, run_process
from on_device.document import document
from on_device.faults import no_plan, other_version, spoil_plan, truncated
from on_device.records import DONE, FAILED, STOPPED, Budget, Records
from on_device.steps import Step
from on_device.units import units_of

from tofe_export.bundle import Bundle
from tofe_export.cli import main as tofe_export
from tofe_export.errors import InputError
from tofe_export.trt.plan import plan_version

PLATFORM = {"tensorrt": "8.6.1", "device": {"gpu": "FAKE GPU", "compute_capability": "8.7"}}


def in_this_process(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """A runner that needs no processes, so that the fake is installed where the commands run."""

    def run(program: str, arguments: Sequence[str], seconds: float) -> Ran:
        assert program != EXPORT, "nothing is to be exported here"
        if program == LOOK:
            capsys.readouterr()
            code = look.main(list(arguments))
            return Ran(code, 1.0, capsys.readouterr().out, "")
        ended = CliRunner().invoke(tofe_export, list(arguments))
        return Ran(ended.exit_code, 1.0, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results go instead of the repository."""
    monkeypatch.setattr(machine, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    """A folder as the exports leave it: the tiny bundle as the model, and as what the faults are made of."""
    folder = tmp_path / "bundles"
    whole = tiny_bundle.write_bundle(folder / "faults" / "whole")
    shutil.copytree(whole, folder / "tiny")
    for name, change in {
        "scatternd-reduction": exports.scatter_reduction,
        "unnamed-outputs": exports.unnamed_output,
    }.items():
        exports.plant(whole, folder / "faults" / name, change)
    return folder


def command(bundles: Path, tmp_path: Path, *more: str) -> list[str]:
    options = ["--bundles", str(bundles), "--models", "tiny", "--seconds", "0.05"]
    return ["--work", str(tmp_path / "work"), *options, *more]


def test_everything_is_done_and_kept(
    bundles: Path,
    tmp_path: Path,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trt = fake_tensorrt.install(monkeypatch, "10.3")
    run = in_this_process(capsys)
    assert engines.main(command(bundles, tmp_path), run) == 0
    (file,) = results.iterdir()
    assert file.name == "engines_fake-gpu_10.3.0.json"
    facts = json.loads(file.read_text())
    assert (facts["complete"], facts["failed"], facts["not_tried"]) == (True, [], [])
    assert facts["device"]["gpu"] == "FAKE GPU"

    names = [(engine["variant"], engine["probe"]) for engine in facts["engines"]]
    assert len(names) == len(set(names)) == 6  # four engines, probes of the two that select
    assert all(engine["verdict"] == "honoured" and engine["plan_bytes"] > 0 for engine in facts["engines"])
    judged = [variant for one in facts["verify"] for variant in one["variants"]]
    assert {variant["backend"] for variant in judged} == {"tensorrt"}
    assert [variant["passed"] for variant in judged] == [True] * 4
    assert all(len(variant["three_way"]["views"]) == 2 for variant in judged)
    assert [(one["unit"], one["cuda_graph"]) for one in facts["bench"]] == [
        ("tiny-b1-fp32", True),
        ("tiny-b1-fp32", False),
        ("tiny-b1-fp16", True),
        ("tiny-b1-fp16", False),
    ]
    assert all(one["comparisons"][0]["speedup"]["rounds"] > 0 for one in facts["bench"])

    faults = {fault["fault"]: fault for fault in facts["faults"]}
    assert {name for name, fault in faults.items() if fault["as_expected"] is False} == set()
    assert "reduction" in faults["scatternd-reduction"]["tensorrt_lines"][0]
    assert "the plan was changed" in faults["plan other version"]["said"]
    assert "made by another TensorRT" in faults["plan other version, sidecar fitted"]["explained"][0]
    assert faults["plan truncated"]["exit_code"] == 4
    assert "the plan ends early" in faults["plan truncated, sidecar fitted"]["tensorrt_lines"][0]

    looks = facts["inspector"]
    assert [len(one) for one in ([x for x in looks if x["unit"] == "tiny-b1-fp16"], looks)] == [
        3,
        6,
    ]  # probes too
    whole = tmp_path / "work" / "inspector" / looks[0]["engine"].replace(".plan", ".inspector.json.gz")
    assert json.loads(gzip.decompress(whole.read_bytes()))["FAKE"] is True
    assert looks[0]["read"]["source"] == "engine inspector"

    trt.built = 0  # once more: nothing is left to do
    assert engines.main(command(bundles, tmp_path), run) == 0
    assert trt.built == 0
    assert json.loads(file.read_text())["engines"] == facts["engines"]


def test_a_failure_hides_nothing_and_an_engine_that_is_gone_is_built_again(
    bundles: Path,
    tmp_path: Path,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trt = fake_tensorrt.install(monkeypatch, "8.6")
    run = in_this_process(capsys)
    refused: list[str] = []

    def spoil(program: str, arguments: Sequence[str], seconds: float) -> Ran:
        if program == "tofe-export" and arguments[0] == "bench" and not refused:
            refused.append(arguments[1])
            return Ran(-11, 2.0, "", "Segmentation fault")
        trt.script.ignore_precision = "0.01g-scatter-fp16-b1" in arguments
        return run(program, arguments, seconds)

    assert engines.main(command(bundles, tmp_path), spoil) == 1
    (file,) = results.iterdir()
    facts = json.loads(file.read_text())
    failed = {one["step"]: one["reason"] for one in facts["failed"]}
    assert failed["bench on tiny-b1-fp32"] == "killed by signal 11: Segmentation fault"
    assert "not built" in failed["build tiny 0.01g-scatter-fp16-b1"]
    assert failed["bench on tiny-b1-fp16"] == failed["bench off tiny-b1-fp16"] == "no engine was built"
    assert "0.01g-scatter-fp16-b1" not in {engine["variant"] for engine in facts["engines"]}
    assert [one["unit"] for one in facts["bench"]] == ["tiny-b1-fp32"]
    assert facts["complete"] is False

    shutil.rmtree(
        bundles / "tiny" / "engines"
    )  # another machine of the same kind, with the state brought along
    trt.built = 0
    assert engines.main(command(bundles, tmp_path), spoil) == 1
    assert trt.built == 0  # failed steps are not tried again by themselves, so nothing needs engines
    assert engines.main(command(bundles, tmp_path, "--again"), run) == 0
    assert trt.built == 6
    assert json.loads(file.read_text())["complete"] is True


def test_without_a_gpu_nothing_is_claimed(
    bundles: Path,
    tmp_path: Path,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trt = fake_tensorrt.install(monkeypatch, "8.6")
    line = "CUDA initialization failure with error: 35."

    def refuse(logger: Any) -> None:
        logger.log("Severity.WARNING", line)
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(trt, "Builder", refuse)
    assert engines.main(command(bundles, tmp_path), in_this_process(capsys)) == engines.NO_DEVICE
    found = json.loads((tmp_path / "work" / "platform.json").read_text())
    assert found["lines"] == [line]
    assert "no NVIDIA driver" in found["builder"]
    assert not results.exists()
    assert not (bundles / "tiny" / "engines").exists()


def test_units_are_ordered_by_batch(bundles: Path) -> None:
    (fp32, fp16) = units_of([bundles / "tiny"], [1], ["fp32", "fp16"])
    assert (fp32.name, fp16.name) == ("tiny-b1-fp32", "tiny-b1-fp16")
    assert fp16.variants == ("dense-fp16-b1", "0.01g-scatter-fp16-b1")
    assert fp16.probed == {"0.01g-scatter-fp16-b1"}
    assert units_of([bundles / "tiny"], [8], ["fp32"]) == []


def test_a_step_that_does_not_fit_is_left_out(tmp_path: Path) -> None:
    now = [0.0]
    records = Records(tmp_path)
    budget = Budget(100.0, lambda: now[0])
    tried: list[str] = []

    def step(key: str, kind: str, seconds: float, status: str = DONE) -> Step:
        def act(limit: float) -> dict[str, Any]:
            tried.append(key)
            now[0] += seconds
            return {"kind": kind, "status": status, "seconds": seconds, "result": []}

        return Step(key, kind, act)

    steps = [
        step("a", "long", 60),
        step("b", "long", 60),
        step("c", "short", 5),
        step("d", "short", 5, STOPPED),
    ]
    engines.work_off(steps, records, budget, 1000, False, lambda: None)
    assert tried == ["a", "c", "d"]  # 40 s are left, and the last of its kind took 60
    facts = document(records, steps, [], {})
    assert facts["not_tried"] == ["b"]
    assert [one["step"] for one in facts["failed"]] == ["d"]
    assert facts["complete"] is False
    now[0] = 0.0
    engines.work_off(steps, Records(tmp_path), Budget(None), 1000, False, lambda: None)
    assert tried == ["a", "c", "d", "b", "d"]


def test_a_step_that_raises_is_recorded(tmp_path: Path) -> None:
    def act(limit: float) -> dict[str, Any]:
        raise OSError("the disk is gone")

    records = Records(tmp_path)
    engines.work_off([Step("x", "look", act)], records, Budget(None), 10, False, lambda: None)
    assert records.steps["x"]["status"] == FAILED
    assert records.steps["x"]["reason"] == "OSError: the disk is gone"


def test_records_of_another_device_are_refused(tmp_path: Path) -> None:
    Records(tmp_path).settle(PLATFORM)
    Records(tmp_path).settle(PLATFORM)
    with pytest.raises(InputError, match=r"records are of TensorRT 8.6.1 FAKE GPU 8.7, this is TensorRT 10"):
        Records(tmp_path).settle(PLATFORM | {"tensorrt": "10.3.0"})
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(InputError, match="expected the state of an earlier run"):
        Records(tmp_path)


def test_a_process_is_stopped_with_its_children() -> None:
    started = time.monotonic()
    ran = run_process(["sh", "-c", "sleep 30 & echo begun; sleep 30"], 0.5)
    assert time.monotonic() - started < 10
    assert (ran.exit_code, ran.stdout.strip()) == (None, "begun")
    assert "time was used up" in ran.reason
    crashed = run_process(["sh", "-c", "echo 'error: why' >&2; echo more >&2; kill -SEGV $$"], 10)
    assert crashed.reason == "killed by signal 11: error: why"


def test_the_product_is_found_without_being_installed() -> None:
    ran = processes(sys.executable)("tofe-export", ["--version"], 60)
    assert ran.exit_code == 0, ran.stderr


def test_lines_of_tensorrt_are_found() -> None:
    said = "warning: it failed. why\n  TensorRT: first\n  TensorRT: first\n  TensorRT: second\nerror: 1 of 1"
    assert Ran(6, 1.0, "", said).tensorrt_lines == ["first", "second"]
    assert Ran(6, 1.0, "", said).reason == "error: 1 of 1"


def test_plans_are_spoilt_as_said(tmp_path: Path) -> None:
    head = bytes.fromhex("66747274") + bytes(20) + bytes([8, 6, 0, 12])
    plan = head + bytes(100)
    assert plan_version(other_version(plan)) == (8, 7, 0, 12)
    assert plan_version(truncated(plan)) == (8, 6, 0, 12)
    assert len(truncated(plan)) == 64
    assert plan_version(no_plan(plan)) is None
    path = tmp_path / "x.plan"
    path.write_bytes(plan)
    path.with_suffix(".json").write_text(json.dumps({"plan_bytes": len(plan), "other": 1}))
    spoil_plan(path, truncated, fit=True)
    assert json.loads(path.with_suffix(".json").read_text())["plan_bytes"] == 64


@pytest.mark.parametrize("name", exports.PLANTED)
def test_planted_graphs_are_sound_but_for_the_fault(name: str, tmp_path: Path) -> None:
    whole = tiny_bundle.write_bundle(tmp_path / "whole", ("fp32",))
    exports.plant(whole, tmp_path / "planted", exports.PLANTED[name])
    bundle = Bundle.open(tmp_path / "planted")
    variant = bundle.variant("0.01g-scatter-fp32-b1")
    bundle.check([variant])  # hashes fit
    file = bundle.file(variant.file)
    assert file.read_bytes() != (whole / variant.file).read_bytes()
    if name == "unknown-operator":
        with pytest.raises(Exception, match=r"nobody\.knows"):
            onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"images": bundle.reference().images[:1]})[0]
    assert found.shape == (1, 3)
