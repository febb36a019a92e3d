"""`trt`, `verify`, `bench`, `predict` through the command line, on a FAKE TensorRT of each version.

The fake says nothing of real engines: tests/trt/test_real.py does.
"""

from __future__ import annotations

import json
from pathlib import Path

import fake_tensorrt
import pytest
import tiny_bundle
from command_line import ALL, REDUCED_16, REDUCED_32, plans, run


def test_everything_goes_well(trt: fake_tensorrt.FakeModule, bundle: Path, picture: Path) -> None:
    made = run("trt", bundle, "--probe", "--json", bundle / "trt.json")
    assert made.exit_code == 0, made.output
    assert "FAKE GPU" in made.stderr
    assert trt.built == 6  # four engines, and probes of the two that select
    assert len(plans(bundle)) == 6
    engines = json.loads((bundle / "trt.json").read_text())["engines"]
    assert {(engine["variant"], engine["verdict"]) for engine in engines} == {(n, "honoured") for n in ALL}
    assert all("fake" in engine["plan"] for engine in engines)

    judged = run("verify", bundle, "--json", bundle / "verify.json")
    assert judged.exit_code == 0, judged.output
    assert "FAKE GPU" in judged.stdout
    report = json.loads((bundle / "verify.json").read_text())
    assert report["machine"]["gpu"] == "FAKE GPU"
    assert report["left_out"] == []
    assert {variant["name"] for variant in report["variants"]} == ALL
    for variant in report["variants"]:
        assert (variant["backend"], variant["provider"]) == ("tensorrt", "tensorrt")
        assert [view["passed"] for view in variant["three_way"]["views"]] == [True, True]
        if "scatter" in variant["name"]:
            assert {"kept sets", "forced logits", "product is probe"} <= {
                c["name"] for c in variant["checks"]
            }

    answer = run("predict", bundle, picture, "--json", "-")
    assert answer.exit_code == 0, answer.output
    predicted = json.loads(answer.stdout)
    assert predicted["backend"] == "tensorrt"
    assert predicted["predictions"][0]["variant"] == REDUCED_32


@pytest.mark.parametrize("cuda_graph", ["--cuda-graph", "--no-cuda-graph"])
def test_engines_are_measured(trt: fake_tensorrt.FakeModule, built: Path, cuda_graph: str) -> None:
    options = ("--iterations", 6, "--warmup", 1, "--variant", REDUCED_32, cuda_graph)
    measured = run("bench", built, *options, "--json", built / "bench.json")
    assert measured.exit_code == 0, measured.output
    assert "FAKE GPU" in (built / "bench.json").read_text()
    graphs = trt.cudart.calls.count("cudaStreamBeginCapture")
    assert (graphs > 0) is (cuda_graph == "--cuda-graph")
    assert trt.cudart.live == {}


def test_half_precision_takes_the_route_of_the_version(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    assert run("trt", bundle, "--fp16", "--variant", REDUCED_16).exit_code == 0
    (sidecar,) = [json.loads(path.read_text()) for path in (bundle / "engines").glob("*.json")]
    weak = trt.version == "8.6"
    assert sidecar["typing"] == ("weak" if weak else "strong")
    assert sidecar["twin"] == (REDUCED_32 if weak else None)
    assert sidecar["graph"]["file"] == f"variants/{REDUCED_32 if weak else REDUCED_16}.onnx"
    assert ("FP16" in sidecar["flags"]) is weak
    assert "-TF32" in sidecar["flags"]
    if weak:
        assert sidecar["held_float32"] >= 3


def test_an_engine_that_is_there_is_kept(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    again = run("trt", built, "--probe", "--json", "-")
    assert again.exit_code == 0
    assert trt.built == 0
    assert all(engine["kept"] for engine in json.loads(again.stdout)["engines"])
    assert run("trt", built, "--variant", REDUCED_32, "--force").exit_code == 0
    assert trt.built == 1


def test_without_probes_kept_tokens_are_not_called_seen(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    assert run("trt", bundle, "--fp32").exit_code == 0
    judged = run("verify", bundle, "--precision", "fp32")
    assert judged.exit_code == 0, judged.output
    assert f"kept tokens not seen, since no probe was built here (tofe-export trt --probe): {REDUCED_32}" in (
        judged.stdout
    )
    trt.script.gain = 1.01
    judged = run("verify", bundle, "--variant", REDUCED_32)
    assert judged.exit_code == 1
    assert "[no-probe; the engine]" in judged.stdout


def test_some_variants_have_engines(trt: fake_tensorrt.FakeModule, bundle: Path) -> None:
    assert run("trt", bundle, "--variant", REDUCED_32).exit_code == 0
    judged = run("verify", bundle, "--json", "-")
    assert judged.exit_code == 0
    data = json.loads(judged.stdout)
    assert [variant["name"] for variant in data["variants"]] == [REDUCED_32]
    assert set(data["left_out"]) == ALL - {REDUCED_32}
    assert "no engine here, so not run" in judged.stderr
    named = run("verify", bundle, "--variant", f"{REDUCED_32},dense-fp32-b1")
    assert (named.exit_code, named.stdout) == (5, "")
    assert "no engine of dense-fp32-b1" in named.stderr


def test_a_provider_is_onnx_runtimes(trt: fake_tensorrt.FakeModule, built: Path) -> None:
    refused = run("verify", built, "--backend", "tensorrt", "--provider", "cpu")
    assert refused.exit_code == 2
    judged = run("verify", built, "--provider", "cpu", "--variant", REDUCED_32, "--json", "-")
    assert json.loads(judged.stdout)["variants"][0]["backend"] == "onnxruntime"


def test_a_dynamic_batch(trt: fake_tensorrt.FakeModule, tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle", ("fp32",), dynamic=True)
    name = tiny_bundle.DYNAMIC
    assert run("trt", bundle, "--variant", name, "--profile", "2,2,2").exit_code == 0
    judged = run("verify", bundle, "--variant", name)  # three images, two at a time
    assert judged.exit_code == 0, judged.output


def test_accuracy_of_engines(
    trt: fake_tensorrt.FakeModule, built: Path, picture: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "labelled"
    for name in tiny_bundle.CLASSES:
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(picture.read_bytes())
    judged = run(
        "verify", built, "--variant", REDUCED_32, "--images", folder, "--json", built / "verify.json"
    )
    assert judged.exit_code == 0, judged.output
    (accuracy,) = json.loads((built / "verify.json").read_text())["accuracy"]
    assert (accuracy["images"], accuracy["top1"]) == (3, pytest.approx(1 / 3))  # one picture, three labels
