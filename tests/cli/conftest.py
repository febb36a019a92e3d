"""A bundle of a model that fits by hand: 8 x 8 pixels, 3 classes, logits that are mean colours."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tofe_export import __version__
from tofe_export.budget import Cost, dense_macs, gmacs, macs, macs_executed
from tofe_export.files import sha256_bytes, sha256_file
from tofe_export.manifest import Manifest, Model, ReferenceInfo, Variant, WeightsFile
from tofe_export.preprocess import Preprocessing, apply
from tofe_export.reference import Reference

CLASSES = ("red", "green", "blue")
PREPROCESSING = Preprocessing((8, 8), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
COST = Cost(
    tokens=16,
    prefix=1,
    width=8,
    depth=4,
    attention_width=8,
    token_macs=512,
    stem_macs=10_000_000,
    head_macs=24,
    head_token_macs=0,
    locations=(1, 2),
    selector="mlp",
    approximator="bottleneck",
    reuse=True,
)
KEEP = (8, 4)
MODEL = Model(
    backbone="tiny",
    arguments={},
    checkpoint_sha256="0" * 64,
    trained=True,
    selector="mlp",
    approximator="bottleneck",
    reuse=True,
    locations=(1, 2),
    tokens=16,
    prefix=1,
    grid=(4, 4),
    num_classes=3,
    output="logits",
)
# the dense model's logit of a class is 10 times the mean of its colour channel; the reduced one's, 5 times
GAINS = {"dense-fp32-b1": 10.0, "0.01g-scatter-fp32-b1": 5.0}

Floats = npt.NDArray[np.float32]
MakeBundle = Callable[..., Path]
Picture = Callable[[str, tuple[int, int, int]], Path]


def logits(images: Floats, gain: float = 10.0) -> Floats:
    """What the dense graph computes: (n, 3, 8, 8) -> (n, 3)."""
    means: Floats = images.mean(axis=(2, 3)) * np.float32(gain)
    return means


def write_graph(path: Path, gain: float) -> None:
    scale = numpy_helper.from_array(np.array(gain, np.float32), "gain")
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("Mul", ["means", "gain"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph(nodes, "tiny", [images], [out], [scale])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def variant(folder: Path, name: str) -> Variant:
    dense = name.startswith("dense")
    file = f"variants/{name}.onnx"
    write_graph(folder / file, GAINS[name])
    return Variant(
        name=name,
        file=file,
        sha256=sha256_file(folder / file),
        probe=None,
        budget_gmacs=None if dense else 0.01,
        gmacs=gmacs(dense_macs(COST) if dense else macs(COST, KEEP)),
        gmacs_executed=gmacs(macs_executed(COST, KEEP, "dense" if dense else "scatter")),
        keep=None if dense else KEEP,
        thresholds=None,
        source="dense" if dense else "training",
        lowering="dense" if dense else "scatter",
        precision="fp32",
        batch=1,
        opset=17,
        targets=("8.6", "10.3"),
        reference="dense",
    )


def write_bundle(
    folder: Path, trained: bool = True, classes: tuple[str, ...] | None = CLASSES, output: str = "logits"
) -> Path:
    (folder / "variants").mkdir(parents=True)
    generator = np.random.default_rng(0)
    sources = [generator.integers(0, 256, (9, 11, 3), dtype=np.uint8) for _ in range(3)]
    images = np.stack([apply(source, PREPROCESSING) for source in sources])
    reference = Reference(images, sources, {}).with_entry("dense", logits(images))
    reference.save(folder / "reference.npz")
    (folder / "variants" / "weights.bin").write_bytes(b"w" * 1234)
    manifest = Manifest(
        tool_version=__version__,
        created="2025-01-01T00:00:00+00:00",
        model=replace(MODEL, trained=trained, output=output),
        cost=COST,
        preprocessing=PREPROCESSING,
        classes=classes,
        reference=ReferenceInfo(
            "reference.npz",
            sha256_file(folder / "reference.npz"),
            reference.images_sha256(),
            "built-in images",
            len(images),
        ),
        weights=(WeightsFile("variants/weights.bin", sha256_bytes(b"w" * 1234), 1234),),
        variants=tuple(variant(folder, name) for name in GAINS),
    )
    (folder / "manifest.json").write_text(json.dumps(manifest.to_json()))
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    """Write a picture of one colour below `tmp_path`."""

    def write(name: str, colour: tuple[int, int, int]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), colour).save(path)
        return path

    return write


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Write a bundle into `tmp_path / name`, with what the test changes about it."""

    def make(
        name: str = "bundle",
        trained: bool = True,
        classes: tuple[str, ...] | None = CLASSES,
        output: str = "logits",
    ) -> Path:
        return write_bundle(tmp_path / name, trained, classes, output)

    return make
