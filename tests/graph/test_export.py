"""A whole bundle of a tiny model: what it holds, how it grows, what it refuses, and that nothing is ever half done.

The first export really traces; later ones reuse the session's template, which tests nothing less.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from tofe_export.budget import gmacs, macs_executed
from tofe_export.bundle import Bundle
from tofe_export.errors import BuildFailed, BundleError, ImageError, UsageError, WriteError
from tofe_export.files import sha256_file
from tofe_export.graph import export as module
from tofe_export.graph.export import Pictures, export, pictures_from
from tofe_export.graph.request import Request
from tofe_export.graph.trace import Template
from tofe_export.manifest import Variant
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.tofe import ToFe
from tofe_export.runtime.session import Session
from tofe_export.verify.run import verify_bundle

Traced = Callable[[str], Any]  # by the name of a recipe in conftest.py

pytestmark = pytest.mark.slow  # needs a trace

FULL = Request(
    keep=(7, 5, 3), budgets=(0.01,), lowerings=("scatter", "concat", "adaptive"), batches=(1, 2, "dyn")
)
MORE = Request(keep=(5, 4, 2), budgets=(0.02,))


@pytest.fixture(scope="module")
def checkpoint(traced: Traced) -> Checkpoint:
    model = traced("deit").model
    return Checkpoint(
        model, model.backbone.preprocessing(), tuple("abcdefghij"), trained=True, sha256="c" * 64
    )


def pictures(seed: int = 0) -> Pictures:
    random = np.random.RandomState(seed)
    sizes = ((80, 100), (90, 70), (64, 64))
    return Pictures([random.randint(0, 256, (*size, 3)).astype(np.uint8) for size in sizes], "three pictures")


@pytest.fixture(scope="module")
def original(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every lowering and batch; do not change it."""
    return export(checkpoint, FULL, tmp_path_factory.mktemp("made") / "bundle", pictures())


@pytest.fixture
def bundle(original: Bundle, tmp_path: Path) -> Bundle:
    """A copy to change."""
    shutil.copytree(original.path, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture
def quick(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Trace at no cost: the session's template, its weights copied."""
    case = traced("deit")

    def copy(model: ToFe, folder: Path, output: str) -> Template:
        assert model is case.model
        assert output == "head"
        shutil.copyfile(case.folder / case.template.weights_file, folder / case.template.weights_file)
        template: Template = case.template
        return template

    with monkeypatch.context() as patch:
        patch.setattr(module, "trace", copy)
        yield


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
        *(f"0.01g-{lowering}-fp32-b{b}" for lowering in ("scatter", "concat") for b in (1, 2, "dyn")),
        "0.01g-adaptive-fp32-b1",
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
        assert (variant.budget_gmacs, variant.keep) == (0.01, (7, 5, 3))
        assert variant.gmacs_executed == gmacs(
            macs_executed(original.manifest.cost, (7, 5, 3), variant.lowering)
        )
    assert named(original)["0.01g-scatter-fp32-bdyn"].batch == "dyn"
    assert named(original)["0.01g-scatter-fp32-b2"].thresholds is None


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
    variant = named(original)["0.01g-adaptive-fp32-b1"]
    assert variant.thresholds is not None
    assert variant.source == "--keep; thresholds from the 3 reference images"
    assert variant.targets == ()
    kept = original.reference().kept(variant.reference).sum(axis=2)  # (images, stages)
    np.testing.assert_allclose(kept.mean(axis=0), [7, 5, 3], atol=0.5)


@pytest.mark.usefixtures("quick")
def test_extending_keeps_what_is_there(bundle: Bundle, checkpoint: Checkpoint) -> None:
    (bundle.path / "engines").mkdir()
    (bundle.path / "engines" / "x.plan").write_bytes(b"engine")
    before, old = contents(bundle.path), bundle.reference()
    links = {path: (bundle.path / path).stat().st_ino for path in before}
    extended = export(checkpoint, MORE, bundle.path)
    after = contents(bundle.path)
    assert list(named(extended)) == [
        *(n for n in named(bundle) if n != "dense-fp32-b1"),
        "dense-fp32-b1",
        "0.02g-scatter-fp32-b1",
    ]
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {"manifest.json", "reference.npz"}
    assert after.keys() - before.keys() == {
        "variants/0.02g-scatter-fp32-b1.onnx",
        "variants/0.02g-scatter-fp32-b1.probe.onnx",
    }
    kept = "variants/0.01g-concat-fp32-b2.onnx"
    assert (bundle.path / kept).stat().st_ino == links[kept]
    assert extended.manifest.weights == bundle.manifest.weights
    assert extended.manifest.reference.source == "three pictures"
    new = extended.reference()
    assert set(new.keys) == {*old.keys, "static-5-4-2"}
    np.testing.assert_array_equal(new.images, old.images)
    Bundle.open(bundle.path).check(extended.manifest.variants)
    assert [p.name for p in bundle.path.parent.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("quick")
def test_the_same_pictures_may_be_named_again(bundle: Bundle, checkpoint: Checkpoint) -> None:
    assert "0.02g-scatter-fp32-b1" in named(export(checkpoint, MORE, bundle.path, pictures()))


@pytest.mark.usefixtures("quick")
def test_a_variant_made_again_is_replaced(bundle: Bundle, checkpoint: Checkpoint) -> None:
    again = export(checkpoint, replace(MORE, budgets=(0.01,)), bundle.path)
    assert len(named(again)) == len(again.manifest.variants) == len(bundle.manifest.variants)
    assert named(again)["0.01g-scatter-fp32-b1"].keep == (5, 4, 2)
    assert named(again)["0.01g-scatter-fp32-b2"].keep == (7, 5, 3)
    again.check(again.manifest.variants)


@pytest.mark.usefixtures("quick")
def test_adaptive_variants_with_equal_counts_keep_their_own_answers(
    bundle: Bundle, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tofe_export.graph import answers

    monkeypatch.setattr(answers, "thresholds_on", lambda *args: (0.0, 0.0, 0.0))
    request = Request(keep=(7, 5, 3), budgets=(0.02,), lowerings=("adaptive",))
    extended = export(checkpoint, request, bundle.path)
    old, new = named(extended)["0.01g-adaptive-fp32-b1"], named(extended)["0.02g-adaptive-fp32-b1"]
    assert old.keep == new.keep
    assert old.reference != new.reference
    assert verify_bundle(extended, [old, new]).passed


OTHERS: list[tuple[str, Callable[[Checkpoint], Checkpoint], Request, Pictures | None]] = [
    ("the checkpoint differ", lambda c: replace(c, sha256="d" * 64), MORE, None),
    (
        "the preprocessing differ",
        lambda c: replace(c, preprocessing=replace(c.preprocessing, crop=0.5)),
        MORE,
        None,
    ),
    (r"the output \(logits there, tokens here\) differ", lambda c: c, replace(MORE, output="tokens"), None),
    (r"other reference images \(from three pictures\)", lambda c: c, MORE, pictures(1)),
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("message", "change", "request_", "chosen"), OTHERS, ids=[o[0][:24] for o in OTHERS])
def test_another_export_is_refused(
    message: str,
    change: Callable[[Checkpoint], Checkpoint],
    request_: Request,
    chosen: Pictures | None,
    bundle: Bundle,
    checkpoint: Checkpoint,
) -> None:
    before = contents(bundle.path.parent)
    with pytest.raises(UsageError, match=f"{message}.*--force.*--out"):
        export(change(checkpoint), request_, bundle.path, chosen)
    assert contents(bundle.path.parent) == before


@pytest.mark.usefixtures("quick")
def test_force_replaces(bundle: Bundle, checkpoint: Checkpoint) -> None:
    other = replace(checkpoint, sha256="d" * 64)
    made = export(other, MORE, bundle.path, pictures(1), force=True)
    assert list(named(made)) == ["dense-fp32-b1", "0.02g-scatter-fp32-b1"]
    assert contents(bundle.path).keys() == {*made.manifest.files(), "manifest.json"}
    assert made.reference().keys == ("dense", "static-5-4-2")
    assert made.manifest.model.checkpoint_sha256 == "d" * 64


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left on device")])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("function", ["trace", "bind", "_manifest", "write_atomic"])
def test_whatever_happens_the_old_bundle_stays_whole(
    function: str,
    force: bool,
    error: BaseException | type[BaseException],
    bundle: Bundle,
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, calls = getattr(module, function), 0

    def fails(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1 and function in ("bind", "write_atomic"):
            return real(*args, **kwargs)  # so that something has been written
        raise error

    monkeypatch.setattr(module, function, fails)
    before = contents(bundle.path.parent)
    expected = WriteError if isinstance(error, OSError) else error
    with pytest.raises(expected):  # type: ignore[arg-type]  # mypy keeps instances apart from classes
        export(checkpoint, MORE, bundle.path, pictures(), force=force)
    assert contents(bundle.path.parent) == before
    assert [p.name for p in bundle.path.parent.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("quick")
def test_nothing_is_left_of_a_first_export_that_fails(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "count_macs", lambda model, batch: 1)
    with pytest.raises(BuildFailed, match=r"dense-fp32-b1 runs 0\.0000 GMACs, and the cost model says"):
        export(checkpoint, MORE, tmp_path / "new", pictures())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("file", ["weights", "reference", "graph", "missing"])
def test_a_damaged_bundle_is_not_extended(file: str, bundle: Bundle, checkpoint: Checkpoint) -> None:
    relative = {
        "weights": bundle.manifest.weights[0].file,
        "reference": "reference.npz",
        "graph": "variants/0.01g-concat-fp32-b2.onnx",
        "missing": "variants/0.01g-concat-fp32-b2.probe.onnx",
    }[file]
    path = bundle.file(relative)
    data = path.read_bytes()
    path.unlink()
    if file != "missing":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    before = contents(bundle.path.parent)
    with pytest.raises(BundleError, match="incomplete or was changed"):
        export(checkpoint, MORE, bundle.path)
    assert contents(bundle.path.parent) == before
    export(checkpoint, MORE, bundle.path, force=True)  # the way out


@pytest.mark.usefixtures("quick")
def test_a_folder_with_other_content_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(WriteError, match="other content"):
            export(checkpoint, MORE, tmp_path, force=force)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.usefixtures("quick")
def test_a_folder_that_cannot_be_written_to(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="could not be written"):
        export(checkpoint, MORE, tmp_path / "new")


@pytest.mark.usefixtures("quick")
def test_requests_are_refused_before_any_work(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "trace", lambda *args: pytest.fail("traced"))
    with pytest.raises(UsageError, match="nothing to export"):
        export(checkpoint, Request(), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
def test_progress_is_told(checkpoint: Checkpoint, tmp_path: Path) -> None:
    told: list[str] = []
    export(checkpoint, MORE, tmp_path / "new", pictures(), say=told.append)
    assert "tracing" in told
    assert "lowering 0.02g-scatter-fp32-b1" in told
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
