"""The command: what it builds, keeps, refuses and prints, around a TensorRT that does what a script says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tofe_export.bundle import Bundle
from tofe_export.cli import main
from tofe_export.errors import MissingBackend
from tofe_export.trt.monitor import LeftRunning
from tofe_export.trt.platform import Platform

FP16 = "2.00g-scatter-fp16-b1"
THREE = ["dense-fp16-b1", FP16, "1.50g-scatter-fp16-b4"]


@pytest.fixture
def script(standin: Any) -> Any:
    return standin.Script()


@pytest.fixture
def call(
    typed_bundle: Bundle, make_platform: Callable[..., Platform], script: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    def run(*arguments: str, version: str = "10.3") -> Result:
        platform = make_platform(version, script)
        monkeypatch.setattr(Platform, "here", classmethod(lambda cls: platform))
        return CliRunner().invoke(main, ["trt", str(typed_bundle.path), *arguments])

    return run


def plans(bundle: Bundle) -> list[str]:
    return sorted(path.name for path in (bundle.path / "engines").glob("*.plan"))


def test_every_fitting_variant_and_the_dense_one_is_built(call: Any, typed_bundle: Bundle) -> None:
    result = call("--fp16")
    assert result.exit_code == 0, result.stderr
    assert plans(typed_bundle) == sorted(f"{name}.jetson-orin-nano.10.3.0.plan" for name in THREE)
    assert "TensorRT 10.3.0 on NVIDIA Jetson Orin Nano Developer Kit" in result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if "jetson" in line]
    assert [row[0] for row in rows] == THREE
    assert all(row[1:4] == ["fp16", "honoured", "strong"] and "built" in row for row in rows)
    assert f"Built is not verified: tofe-export verify {typed_bundle.path}" in result.stdout


def test_a_budget_brings_the_dense_model_along_and_a_name_does_not(call: Any, typed_bundle: Bundle) -> None:
    assert call("--fp16", "--budget", "2").exit_code == 0
    assert [name.split(".jetson")[0] for name in plans(typed_bundle)] == [FP16, "dense-fp16-b1"]
    result = call("--variant", "1.50g-scatter-bf16-b4", "--json", "-")
    assert result.exit_code == 7  # the script's graph is half, not bfloat16
    assert json.loads(result.stdout)["engines"] == []


def test_json_holds_every_sidecar(call: Any, typed_bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    assert call("--fp16", "--probe", "--json", str(target)).exit_code == 0
    data = json.loads(target.read_text())
    assert (data["tensorrt"], data["device"]["gpu"]) == ("10.3.0", "Orin")
    assert [(e["variant"], e["probe"], e["kept"]) for e in data["engines"]] == [
        ("dense-fp16-b1", False, False),
        (FP16, False, False),
        (FP16, True, False),
        ("1.50g-scatter-fp16-b4", False, False),
        ("1.50g-scatter-fp16-b4", True, False),
    ]
    first = json.loads(Path(data["engines"][0]["path"]).with_suffix(".json").read_text())
    assert {**first, "path": data["engines"][0]["path"], "kept": False} == data["engines"][0]
    assert (data["failed"], data["left_out"]) == ([], [])


def states(result: Result) -> list[bool]:
    return [engine["kept"] for engine in json.loads(result.stdout)["engines"]]


def test_what_is_there_and_fits_is_kept(call: Any, typed_bundle: Bundle) -> None:
    one = ("--variant", FP16, "--json", "-")
    assert states(call(*one)) == [False]
    assert states(call(*one)) == [True]
    assert states(call(*one, "--force")) == [False]
    assert states(call(*one, "--opt-level", "5")) == [False]
    assert states(call(*one, "--opt-level", "5")) == [True]
    plan = typed_bundle.path / "engines" / plans(typed_bundle)[0]
    plan.write_bytes(plan.read_bytes()[:-1])
    result = call(*one, "--opt-level", "5")
    assert states(result) == [False]
    assert "the plan is truncated" in result.stderr
    assert states(call(*one, version="10.13")) == [False]
    assert len(plans(typed_bundle)) == 2


def test_one_that_fails_does_not_stop_the_others(call: Any, script: Any, typed_bundle: Bundle) -> None:
    script.lines = [("ERROR", "Could not find any implementation for node x.")]
    script.during_build = lambda config: setattr(
        script, "plan", None if script.told["parsed"].startswith("dense") else b"plan" * 9
    )
    result = call("--fp16", "--json", "-")
    assert result.exit_code == 6
    assert "1 of 3 engines were not built: dense-fp16-b1" in result.stderr
    assert "warning: TensorRT 10.3.0 could not build dense-fp16-b1. no kernel fits" in result.stderr
    data = json.loads(result.stdout)
    assert [failed["name"] for failed in data["failed"]] == ["dense-fp16-b1"]
    assert [engine["variant"] for engine in data["engines"]] == THREE[1:]
    assert len(plans(typed_bundle)) == 2


def test_a_precision_that_did_not_happen_is_exit_code_7(call: Any, script: Any, typed_bundle: Bundle) -> None:
    script.information = '{"Layers": [{"Outputs": [{"Format/Datatype": "Float"}]}]}'
    result = call("--fp16", version="8.6")
    assert result.exit_code == 7
    assert "fp16 was asked for and was not honoured" in result.stderr
    assert plans(typed_bundle) == []
    assert "honoured" not in result.stdout
    assert "Built is not verified" not in result.stdout


def test_a_precision_without_a_graph(call: Any, typed_bundle: Bundle) -> None:
    for version, form in (("10.3", "int8fp16"), ("8.6", "int8")):  # what is around the integers differs
        result = call("--int8", version=version)
        assert result.exit_code == 2
        assert f"has no {form} graph" in result.stderr
        assert f"--precision {form} --out {typed_bundle.path}" in result.stderr


def test_flags_and_precision_lists_add_up(call: Any) -> None:
    result = call("--fp16", "--precision", "fp16,int8")
    assert (result.exit_code, "no int8fp16 graph" in result.stderr) == (2, True)


def test_the_timing_cache(call: Any, typed_bundle: Bundle, tmp_path: Path) -> None:
    call("--variant", FP16)
    own = typed_bundle.path / "engines" / "timing.jetson-orin-nano.10.3.0.cache"
    assert own.read_bytes() == b"+"
    call("--variant", FP16, "--force")
    assert own.read_bytes() == b"++"
    other = tmp_path / "t.cache"
    call("--variant", FP16, "--force", "--timing-cache", str(other))
    assert (own.read_bytes(), other.read_bytes()) == (b"++", b"+")


def test_a_timing_cache_that_cannot_be_used(
    call: Any, typed_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call("--variant", FP16, "--timing-cache", str(tmp_path / "none" / "t.cache"))
    assert (result.exit_code, plans(typed_bundle)) == (2, [])
    assert f"there is no folder {tmp_path / 'none'}" in result.stderr

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "t.cache").write_bytes(b"")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    result = call("--variant", FP16, "--timing-cache", str(tmp_path / "t.cache"))
    assert (result.exit_code, plans(typed_bundle)) == (3, [])
    assert "t.cache cannot be read: Permission denied" in result.stderr


def test_names_that_lead_out_of_the_bundle(call: Any, typed_bundle: Bundle) -> None:
    file = typed_bundle.path / "manifest.json"
    file.write_text(file.read_text().replace(f'"name": "{FP16}"', '"name": "../../elsewhere"'))
    result = call("--fp16")
    assert result.exit_code == 4
    assert "names can be file names, found '../../elsewhere'" in result.stderr
    assert list(typed_bundle.path.parent.glob("elsewhere*")) == []


def test_known_faults_are_warned_of(call: Any) -> None:
    result = call("--fp16", "--quiet")
    assert result.stderr.count("NVIDIA/TensorRT issue 4723") == 1


def test_what_is_left_out_is_said(call: Any, typed_bundle: Bundle) -> None:
    file = typed_bundle.path / "manifest.json"
    data = json.loads(file.read_text())
    for variant in data["variants"]:
        if variant["name"] == FP16:
            variant["targets"] = ["11.4"]
    file.write_text(json.dumps(data))
    result = call("--fp16")
    assert result.exit_code == 0
    assert f"left out {FP16}: meant for TensorRT 11.4" in result.stderr
    assert len(plans(typed_bundle)) == 2


def test_a_changed_graph_is_no_work_for_tensorrt(call: Any, typed_bundle: Bundle) -> None:
    (typed_bundle.path / "variants" / f"{FP16}.onnx").write_bytes(b"other")
    result = call("--variant", FP16)
    assert result.exit_code == 4
    assert "expected sha256" in result.stderr


def test_without_tensorrt(typed_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(cls: type[Platform]) -> Platform:
        raise MissingBackend("TensorRT is not installed for this Python. Install it with: pip install x")

    monkeypatch.setattr(Platform, "here", classmethod(missing))
    result = CliRunner().invoke(main, ["trt", str(typed_bundle.path)])
    assert result.exit_code == 5
    assert "pip install" in result.stderr


def test_an_interrupt_leaves_nothing_behind(call: Any, script: Any, typed_bundle: Bundle) -> None:
    def interrupt(config: Any) -> None:
        raise KeyboardInterrupt

    script.during_build = interrupt
    result = call("--fp16")
    assert result.exit_code == 130
    assert plans(typed_bundle) == []


def test_a_second_interrupt_ends_the_process_as_it_is(
    call: Any, typed_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*arguments: object) -> None:
        raise LeftRunning

    def leave() -> None:
        raise SystemExit(130)

    monkeypatch.setattr("tofe_export.trt.builder.build", build)
    monkeypatch.setattr("tofe_export.cli.trt.leave", leave)
    result = call("--variant", FP16)
    assert result.exit_code == 130
    assert f"error: interrupted. Nothing of {FP16} is written" in result.stderr
    assert plans(typed_bundle) == []


def test_leaving_waits_for_no_thread_and_cleans_nothing_up() -> None:
    code = (
        "import atexit, threading, time, tofe_export.cli.trt as trt\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "atexit.register(print, 'cleaned up')\n"
        "print('said', end='')\n"
        "trt.leave()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=50
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "said", "")


@pytest.mark.parametrize("text", ["1,2", "0,1,2", "4,2,8", "1,2,x", ""])
def test_a_profile_that_is_none(call: Any, text: str) -> None:
    result = call("--profile", text)
    assert result.exit_code == 2
    assert "expected MIN,OPT,MAX of at least 1 in rising order" in result.stderr
