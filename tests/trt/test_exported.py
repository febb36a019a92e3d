"""What the exporter really writes, through the whole path on a FAKE TensorRT: names, types, probes, twins."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fake_tensorrt
import pytest
from click.testing import CliRunner, Result

from tofe_export.cli import main

pytest.importorskip("torch")
pytestmark = pytest.mark.slow


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DeiT in both lowerings, float32 and half."""
    from tofe_export.model.build import build_checkpoint

    folder = tmp_path_factory.mktemp("exported")
    arguments = {"depth": 4, "embed_dim": 192, "num_heads": 3, "num_classes": 10}
    checkpoint = build_checkpoint(
        "deit_tiny_patch16_224", None, image_size=(64, 64), arguments=arguments, conditioned=False
    )
    checkpoint.trained = True
    checkpoint.save(folder / "tofe.pt")
    options = ("--lowering", "scatter,concat", "--precision", "fp32,fp16", "--budget", 0.02)
    made = run("onnx", "--ckpt", folder / "tofe.pt", *options, "--out", folder / "bundle")
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
