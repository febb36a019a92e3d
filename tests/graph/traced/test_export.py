"""What a bundle of a tiny model holds: a manifest that is true, graphs that are valid and right, no paths."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from tofe_export.budget import gmacs, macs_executed
from tofe_export.bundle import Bundle
from tofe_export.errors import ImageError
from tofe_export.files import sha256_file
from tofe_export.graph.export import Pictures, export, pictures_from
from tofe_export.graph.request import Request
from tofe_export.manifest import Variant
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.runtime.session import Session
from tofe_export.verify.run import verify_bundle

Traced = Callable[[str], Any]  # by the name of a recipe in conftest.py
Make = Callable[..., Pictures]

pytestmark = pytest.mark.slow  # needs a trace

MORE = Request(keep=(5, 4, 2), budgets=(0.03,))


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in and beside a bundle."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def named(bundle: Bundle) -> dict[str, Variant]:
    return {variant.name: variant for variant in bundle.manifest.variants}


def graphs(bundle: Bundle) -> list[Path]:
    return sorted(bundle.path.glob("variants/*.onnx"))


def test_the_manifest_says_what_was_made(original: Bundle, checkpoint: Checkpoint) -> None:
    bundle = Bundle.open(original.path)
    manifest, backbone = bundle.manifest, checkpoint.model.backbone
    bundle.check(manifest.variants)
    assert list(named(bundle)) == [
        *(f"dense-fp32-b{b}" for b in (1, 2, "dyn")),
        *(f"0.0210g-{lowering}-fp32-b{b}" for lowering in ("scatter", "concat") for b in (1, 2, "dyn")),
        "0.0210g-adaptive-fp32-b1",
    ]
    model = manifest.model
    assert (model.backbone, model.arguments) == (backbone.name, backbone.arguments)
    assert (model.checkpoint_sha256, model.trained, model.output) == ("c" * 64, True, "logits")
    assert (model.tokens, model.prefix, model.grid, model.num_classes) == (16, 1, (4, 4), 10)
    assert (model.selector, model.approximator, model.reuse) == ("mlp", "bottleneck", True)
    assert model.locations == (1, 2, 3)
    assert manifest.cost == checkpoint.model.cost()
    assert manifest.preprocessing == checkpoint.preprocessing
    assert manifest.classes == tuple("abcdefghij")
    assert (manifest.reference.count, manifest.reference.source) == (3, "three pictures")
    assert manifest.reference.images_sha256 == bundle.reference().images_sha256()
    assert manifest.created.endswith("+00:00")


def test_the_manifest_says_what_variants_are(original: Bundle) -> None:
    for name, variant in named(original).items():
        assert (variant.file, variant.opset) == (f"variants/{name}.onnx", 17)
        assert variant.precision == "fp32"
        assert variant.weights == (original.manifest.weights[0].file,)
        if variant.dense:
            assert (variant.probe, variant.budget_gmacs, variant.keep) == (None, None, None)
            assert (variant.reference, variant.source) == ("dense", "backbone")
            continue
        assert variant.probe is not None
        assert variant.probe.file == f"variants/{name}.probe.onnx"
        assert (variant.budget_gmacs, variant.keep) == (0.021, (7, 5, 3))
        assert variant.gmacs_executed == gmacs(
            macs_executed(original.manifest.cost, (7, 5, 3), variant.lowering)
        )
    assert named(original)["0.0210g-scatter-fp32-bdyn"].batch == "dyn"
    assert named(original)["0.0210g-scatter-fp32-b2"].thresholds is None


def test_only_what_the_manifest_names_is_there(original: Bundle) -> None:
    there = {path for path in contents(original.path) if path != "manifest.json"}
    assert there == set(original.manifest.files())
    (weights,) = original.manifest.weights
    path = original.file(weights.file)
    assert (path.stat().st_size, sha256_file(path)) == (weights.bytes, weights.sha256)
    assert path.name == f"weights-{weights.sha256[:12]}.bin"
    assert [p.name for p in original.path.parent.iterdir()] == ["bundle"]  # no staging beside it


def test_tracing_again_gives_the_same_weights(original: Bundle, traced: Traced) -> None:
    assert original.manifest.weights[0].sha256 == traced("deit").template.weights_sha256


def test_every_graph_is_valid_onnx(original: Bundle) -> None:
    assert len(graphs(original)) == 3 + 2 * 7
    for path in graphs(original):
        onnx.checker.check_model(path, full_check=True)
        model = onnx.load(path, load_external_data=False)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
        symbols = {
            size.dim_param
            for value in (*model.graph.input, *model.graph.output, *model.graph.value_info)
            for size in value.type.tensor_type.shape.dim
            if not size.HasField("dim_value")
        }
        if "adaptive" not in path.name:
            assert symbols == ({"batch"} if "bdyn" in path.name else set())
        stored = {p.key: p.value for p in model.metadata_props}
        assert stored["tofe.variant"] == path.name.removesuffix(".onnx").removesuffix(".probe")
        assert stored["tofe.checkpoint_sha256"] == "c" * 64
        assert str(original.path.parent).encode() not in path.read_bytes()


def test_verify_passes(original: Bundle) -> None:
    report = verify_bundle(original, original.manifest.variants)
    failed = [(v.name, check) for v in report.variants for check in v.checks if not check.passed]
    assert failed == []
    assert report.passed


def test_a_bundle_can_be_moved(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "far away").mkdir()
    shutil.move(bundle.path, tmp_path / "far away" / "ü")
    monkeypatch.chdir(tmp_path)
    moved = Bundle.open("far away/ü")
    for variant in moved.manifest.variants:
        images = moved.reference().images[: 1 if variant.batch == 1 else 2]
        with Session.open(moved, variant.name) as session:
            got = session.infer({"images": images})["logits"]
        np.testing.assert_allclose(got, moved.reference().output(variant.reference)[: len(images)], atol=1e-4)


def test_adaptive_thresholds_are_found_and_recorded(original: Bundle) -> None:
    variant = named(original)["0.0210g-adaptive-fp32-b1"]
    assert variant.thresholds is not None
    assert variant.source == "--keep; thresholds from the 3 reference images"
    assert variant.targets == ()
    kept = original.reference().kept(variant.reference).sum(axis=2)  # (images, stages)
    np.testing.assert_allclose(kept.mean(axis=0), [7, 5, 3], atol=0.5)


@pytest.mark.usefixtures("quick")
def test_progress_is_told(checkpoint: Checkpoint, pictures: Make, tmp_path: Path) -> None:
    told: list[str] = []
    export(checkpoint, MORE, tmp_path / "new", pictures(), say=told.append)
    assert "tracing" in told
    assert "lowering 0.0300g-scatter-fp32-b1" in told
    assert "PyTorch's answers for dense, 3 of 3 images" in told


def test_pictures_are_built_in_or_from_a_folder(tmp_path: Path) -> None:
    builtin = pictures_from(None, None)
    assert (len(builtin.sources), builtin.name) == (8, "built-in images")
    assert len(pictures_from(None, 3).sources) == 3
    for number in range(3):
        Image.new("RGB", (30, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
    chosen = pictures_from(tmp_path, 2)
    assert (len(chosen.sources), chosen.name) == (2, tmp_path.name)
    assert chosen.sources[0].shape == (20, 30, 3)
    assert len(pictures_from(tmp_path, None).sources) == 3


def test_a_folder_without_pictures_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        pictures_from(tmp_path, None)
    with pytest.raises(ImageError):
        pictures_from(tmp_path / "missing", None)
