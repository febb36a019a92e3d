"""The same path on a REAL TensorRT and a real GPU; skipped, with the reason, where there is none.

    pytest -m tensorrt -rs

Small engines only, built in seconds. They show what the fakes cannot: that the API does what we think, that
plans have the header we read, that the inspector answers in a form we understand. What may crash a process
(damaged plans that TensorRT itself is shown) or needs large models (memory) is in benchmarks/engines.py.
test_real_rehearsed.py runs them on the fakes, so that they are ready where there is a GPU.
"""

from __future__ import annotations

import _thread
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny_bundle
from click.testing import CliRunner, Result
from command_line import change_weights
from PIL import Image

from tofe_export.bundle import Bundle
from tofe_export.cli import main
from tofe_export.errors import MissingBackend
from tofe_export.files import sha256_file
from tofe_export.runtime.tensorrt import open_engine
from tofe_export.trt.monitor import Stage
from tofe_export.trt.plan import plan_version, read_head
from tofe_export.trt.platform import Platform

pytestmark = [pytest.mark.tensorrt, pytest.mark.slow]

REDUCED, HALF = "0.01g-scatter-fp32-b1", "0.01g-scatter-fp16-b1"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def platform() -> Platform:
    """This machine's TensorRT and GPU, or a skip that says what is missing."""
    try:
        return Platform.here()
    except MissingBackend as error:
        pytest.skip(f"no real TensorRT here: {error}")


@pytest.fixture(scope="module")
def built(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with its float32 engines and their probes."""
    bundle = tiny_bundle.write_bundle(tmp_path_factory.mktemp("real") / "bundle", dynamic=True)
    made = run("trt", bundle, "--fp32", "--probe")
    assert made.exit_code == 0, made.output
    return bundle


def test_float32_engines_have_parity(built: Path) -> None:
    judged = run("verify", built, "--precision", "fp32", "--json", built / "verify.json")
    assert judged.exit_code == 0, judged.output
    report = json.loads((built / "verify.json").read_text())
    assert {variant["backend"] for variant in report["variants"]} == {"tensorrt"}
    for variant in report["variants"]:
        assert variant["three_way"]["views"][0]["passed"]


def test_plans_have_the_header_that_is_read(built: Path, platform: Platform) -> None:
    for plan in (built / "engines").glob("*.plan"):
        version = plan_version(read_head(plan))
        assert version is not None
        assert version[:2] == platform.features.version[:2]


def test_the_inspector_is_understood(built: Path) -> None:
    for file in (built / "engines").glob("*.json"):
        layers = json.loads(file.read_text())["layers"]
        assert layers["source"] == "engine inspector", file
        assert sum(layers["counts"].values()) > 0, file


def test_half_precision_happens_or_fails(built: Path, platform: Platform) -> None:
    made = run("trt", built, "--variant", HALF, "--probe")
    plans = list((built / "engines").glob(f"{HALF}.*.plan"))
    if platform.features.strong_types:
        assert made.exit_code == 0, made.output
    assert made.exit_code in (0, 7), made.output  # a weakly typed network may be too small for half kernels
    assert bool(plans) is (made.exit_code == 0)
    if plans:
        judged = run("verify", built, "--variant", HALF)
        assert judged.exit_code == 0, judged.output


def test_a_cuda_graph_gives_the_same(built: Path) -> None:
    bundle = Bundle.open(built)
    variant = bundle.variant(REDUCED)
    with open_engine(bundle, variant) as plain, open_engine(bundle, variant, cuda_graph=True) as recorded:
        for image in bundle.reference().images:
            feeds = {"images": image[None]}
            np.testing.assert_allclose(
                plain.infer(feeds)["logits"], recorded.infer(feeds)["logits"], rtol=1e-5, atol=1e-5
            )


def test_an_engine_that_is_there_is_kept(built: Path) -> None:
    again = run("trt", built, "--fp32", "--probe", "--json", "-")
    assert again.exit_code == 0, again.output
    assert all(engine["kept"] for engine in json.loads(again.stdout)["engines"])


def test_a_picture_is_classified(built: Path, tmp_path: Path) -> None:
    Image.new("RGB", (12, 10), (200, 10, 10)).save(tmp_path / "red.png")
    answer = run("predict", built, tmp_path / "red.png", "--json", "-")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["backend"] == "tensorrt"


def test_an_operator_that_the_parser_does_not_know(platform: Platform, tmp_path: Path) -> None:
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle", ("fp32",))
    path = bundle / f"variants/{REDUCED}.onnx"
    model = onnx.load(path)
    next(node for node in model.graph.node if node.op_type == "Erf").domain = "nobody.knows"
    model.opset_import.append(onnx.helper.make_opsetid("nobody.knows", 1))
    onnx.save(model, path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    next(item for item in manifest["variants"] if item["name"] == REDUCED)["sha256"] = sha256_file(path)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    made = run("trt", bundle, "--variant", REDUCED)
    assert made.exit_code == 6, made.output
    assert "TensorRT: " in made.stderr  # the parser's own words
    assert not list((bundle / "engines").glob("*.plan"))


def test_a_plan_that_is_cut_short(built: Path, tmp_path: Path) -> None:
    (plan,) = (built / "engines").glob(f"{REDUCED}.[!p]*.plan")
    whole = plan.read_bytes()
    plan.write_bytes(whole[: len(whole) // 2])
    try:
        refused = run("verify", built, "--variant", REDUCED)
        assert (refused.exit_code, refused.stdout) == (4, "")
        assert "truncated" in refused.stderr
    finally:
        plan.write_bytes(whole)


@pytest.mark.parametrize("cuda_graph", ["--cuda-graph", "--no-cuda-graph"])
def test_engines_are_measured(built: Path, cuda_graph: str) -> None:
    options = ("--iterations", 6, "--warmup", 1, "--variant", REDUCED, cuda_graph)
    measured = run("bench", built, *options, "--json", built / "bench.json")
    assert measured.exit_code == 0, measured.output
    (one,) = json.loads((built / "bench.json").read_text())["comparisons"]
    assert one["clock"] == "cuda events"


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """The bundle with its engines, to be spoilt."""
    return Path(shutil.copytree(built, tmp_path / "copied"))


def test_wrong_results_are_found(copied: Path) -> None:
    change_weights(copied, REDUCED)
    assert run("trt", copied, "--variant", REDUCED, "--probe").exit_code == 0
    judged = run("verify", copied, "--variant", REDUCED)
    assert judged.exit_code == 1
    assert "the graph is wrong [graph]" in judged.stdout  # as ONNX Runtime says of the same graph


def test_answers_that_are_no_numbers(copied: Path) -> None:
    change_weights(copied, REDUCED, factor=float("nan"))
    assert run("trt", copied, "--variant", REDUCED, "--probe").exit_code == 0
    judged = run("verify", copied, "--variant", REDUCED)
    assert judged.exit_code == 1
    assert "NaN" in judged.stdout


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ({"tensorrt": "9.9.9"}, "it was built by TensorRT 9.9.9"),
        ({"device": {"gpu": "another GPU", "board": None}}, "it was built on another GPU"),
    ],
)
def test_engines_from_elsewhere(copied: Path, edit: dict[str, Any], said: str) -> None:
    (sidecar,) = (copied / "engines").glob(f"{REDUCED}.[!p]*.json")
    data = json.loads(sidecar.read_text())
    for key, value in edit.items():
        data[key] = data[key] | value if isinstance(value, dict) else value
    sidecar.write_text(json.dumps(data))
    refused = run("verify", copied, "--backend", "tensorrt", "--variant", REDUCED)
    assert (refused.exit_code, refused.stdout) == (5, "")
    assert said in refused.stderr


def test_ctrl_c_while_building(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copied / "engines")
    name_stage = Stage.set

    def interrupt(stage: Stage, text: str) -> None:
        name_stage(stage, text)
        if text == "building":
            _thread.interrupt_main()

    monkeypatch.setattr(Stage, "set", interrupt)
    stopped = run("trt", copied, "--fp32")
    assert stopped.exit_code == 130, stopped.output
    assert not list((copied / "engines").glob("*"))
    assert "stopping" in stopped.stderr
