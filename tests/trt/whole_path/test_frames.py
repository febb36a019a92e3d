"""Engines that take camera frames, on a FAKE TensorRT of each version: uint8 in, the same answers out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fake_tensorrt
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command_line import ALL, REDUCED_32, run

from tofe_export.bundle import Bundle
from tofe_export.files import sha256_file
from tofe_export.graph.take_frames import take_frames
from tofe_export.manifest import File, Variant
from tofe_export.runtime.session import Session


@pytest.fixture
def framed(bundle: Path) -> Path:
    """The tiny bundle as if exported with --input uint8."""
    manifest = Bundle.open(bundle).manifest
    for path in (bundle / "variants").glob("*.onnx"):
        model = ir.from_proto(onnx.load(path))
        take_frames(model.graph, manifest.preprocessing)
        onnx.save(ir.to_proto(model), path)

    def renewed(variant: Variant) -> Variant:
        probe = variant.probe and File(variant.probe.file, sha256_file(bundle / variant.probe.file))
        return replace(variant, sha256=sha256_file(bundle / variant.file), probe=probe)

    manifest = replace(
        manifest,
        model=replace(manifest.model, input="uint8"),
        variants=tuple(renewed(variant) for variant in manifest.variants),
    )
    (bundle / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return bundle


def test_the_whole_path(trt: fake_tensorrt.FakeModule, framed: Path, picture: Path) -> None:
    made = run("trt", framed, "--probe")
    assert made.exit_code == 0, made.output
    judged = run("verify", framed, "--json", framed / "verify.json")
    assert judged.exit_code == 0, judged.output
    report = json.loads((framed / "verify.json").read_text())
    assert {variant["name"] for variant in report["variants"]} == ALL
    assert all(view["passed"] for v in report["variants"] for view in v["three_way"]["views"])
    options = ("--iterations", 6, "--warmup", 1, "--variant", REDUCED_32)
    measured = run("bench", framed, *options)
    assert measured.exit_code == 0, measured.output
    predicted = run("predict", framed, picture, "--json", "-")
    assert predicted.exit_code == 0, predicted.output
    assert json.loads(predicted.stdout)["backend"] == "tensorrt"


def test_buffers_follow_the_engines_type(trt: fake_tensorrt.FakeModule, framed: Path) -> None:
    assert run("trt", framed, "--variant", REDUCED_32).exit_code == 0
    bundle = Bundle.open(framed)
    with Session.open(bundle, REDUCED_32, "tensorrt") as session:
        images = session.inputs["images"]
        assert images.dtype == np.uint8
        assert images.shape == (1, 8, 8, 3)
        assert session.infer({"images": np.zeros((1, 8, 8, 3), np.uint8)})["logits"].shape == (1, 3)


def test_a_manifest_that_says_otherwise_fails(trt: fake_tensorrt.FakeModule, framed: Path) -> None:
    manifest = json.loads((framed / "manifest.json").read_text())
    del manifest["model"]["input"]  # as an older bundle has it: normalised images
    (framed / "manifest.json").write_text(json.dumps(manifest))
    assert run("trt", framed, "--variant", REDUCED_32).exit_code == 0
    judged = run("verify", framed, "--variant", REDUCED_32)
    assert judged.exit_code == 1, judged.output
    assert "expected images uint8 (1, 8, 8, 3)" in " ".join(judged.output.split())
