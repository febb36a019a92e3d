"""What the exporter really writes, through the whole path on a FAKE TensorRT: names, types, probes, twins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fake_tensorrt
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from tofe_export.cli import main

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DeiT in both lowerings and in every precision."""
    from tofe_export.model.build import build_checkpoint

    folder = tmp_path_factory.mktemp("exported")
    arguments = {"depth": 4, "embed_dim": 192, "num_heads": 3, "num_classes": 10}
    checkpoint = build_checkpoint(
        "deit_tiny_patch16_224", None, image_size=(64, 64), arguments=arguments, conditioned=False
    )
    checkpoint.trained = True
    checkpoint.save(folder / "tofe.pt")
    pictures = folder / "pictures"
    pictures.mkdir()
    random = np.random.default_rng(0)
    for number in range(4):
        pixels = random.integers(0, 256, (72, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{number}.png")
    options = (
        "--lowering",
        "scatter,concat",
        "--precision",
        "fp32,fp16,bf16,int8,int8fp16",
        "--budget",
        0.02,
    )
    int8 = ("--images", pictures, "--min-agreement", 0)
    made = run("onnx", "--ckpt", folder / "tofe.pt", *options, *int8, "--out", folder / "bundle")
    assert made.exit_code == 0, made.output
    return folder / "bundle"


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_exported_graphs(
    version: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    fake_tensorrt.install(monkeypatch, version)
    made = run("trt", bundle, "--probe", "--json", bundle / "trt.json")
    assert made.exit_code == 0, made.output
    engines = json.loads((bundle / "trt.json").read_text())["engines"]
    assert {engine["verdict"] for engine in engines} == {"honoured"}
    assert len(engines) == 2 * 2 + 2 * 2 + 2  # products and probes of two lowerings, and dense ones
    if version == "8.6":
        reduced = [e for e in engines if e["precision"] == "fp16" and not e["variant"].startswith("dense")]
        assert min(engine["held_float32"] for engine in reduced) > 50  # the selectors, up to TopK
    judged = run("verify", bundle, "--json", bundle / "verify.json")
    assert judged.exit_code == 0, judged.output
    report = json.loads((bundle / "verify.json").read_text())
    assert len(report["variants"]) == 6
    assert all(view["passed"] for item in report["variants"] for view in item["three_way"]["views"])


@pytest.mark.parametrize("version", fake_tensorrt.VERSIONS)
def test_other_precisions(
    version: str, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bfloat16 and INT8, each by the route that the version has. (The FAKE computes bfloat16 as float32.)"""
    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))
    fake_tensorrt.install(monkeypatch, version)
    wanted, form, typing = ["--int8"], {"int8"}, "weak"
    if version != "8.6":
        wanted, form, typing = ["--int8", "--bf16"], {"int8fp16", "bf16"}, "strong"
    else:
        refused = run("trt", bundle, "--bf16")
        assert refused.exit_code == 2
        assert "cannot build bf16" in refused.stderr
    made = run("trt", bundle, *wanted, "--lowering", "scatter", "--probe", "--json", bundle / "trt.json")
    assert made.exit_code == 0, made.output
    engines = json.loads((bundle / "trt.json").read_text())["engines"]
    assert {engine["precision"] for engine in engines} == form
    assert {(engine["verdict"], engine["typing"]) for engine in engines} == {("honoured", typing)}
    judged = run("verify", bundle, "--json", bundle / "verify.json")
    assert judged.exit_code == 0, judged.output
    report = json.loads((bundle / "verify.json").read_text())
    assert {variant["precision"] for variant in report["variants"]} == form
