"""How a bundle grows, what is refused, and that the old one stays whole whatever happens.

The session's template is used again instead of tracing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BuildFailed, BundleError, UsageError, WriteError
from tofe_export.graph import export as module
from tofe_export.graph import variant_maker
from tofe_export.graph.export import Pictures, export
from tofe_export.graph.request import Request
from tofe_export.manifest import Variant
from tofe_export.model.checkpoint import Checkpoint
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
        "0.0300g-scatter-fp32-b1",
    ]
    changed = {path for path in before if after[path] != before[path]}
    assert changed == {"manifest.json", "reference.npz"}
    assert after.keys() - before.keys() == {
        "variants/0.0300g-scatter-fp32-b1.onnx",
        "variants/0.0300g-scatter-fp32-b1.probe.onnx",
    }
    kept = "variants/0.0210g-concat-fp32-b2.onnx"
    assert (bundle.path / kept).stat().st_ino == links[kept]
    assert extended.manifest.weights == bundle.manifest.weights
    assert extended.manifest.reference.source == "three pictures"
    new = extended.reference()
    assert set(new.keys) == {*old.keys, "static-5-4-2"}
    np.testing.assert_array_equal(new.images, old.images)
    Bundle.open(bundle.path).check(extended.manifest.variants)
    assert [p.name for p in bundle.path.parent.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("quick")
def test_the_same_pictures_may_be_named_again(bundle: Bundle, checkpoint: Checkpoint, pictures: Make) -> None:
    assert "0.0300g-scatter-fp32-b1" in named(export(checkpoint, MORE, bundle.path, pictures()))


@pytest.mark.usefixtures("quick")
def test_a_variant_made_again_is_replaced(bundle: Bundle, checkpoint: Checkpoint) -> None:
    again = export(checkpoint, replace(MORE, budgets=(0.021,)), bundle.path)
    assert len(named(again)) == len(again.manifest.variants) == len(bundle.manifest.variants)
    assert named(again)["0.0210g-scatter-fp32-b1"].keep == (5, 4, 2)
    assert named(again)["0.0210g-scatter-fp32-b2"].keep == (7, 5, 3)
    again.check(again.manifest.variants)


@pytest.mark.usefixtures("quick")
def test_adaptive_variants_with_equal_counts_keep_their_own_answers(
    bundle: Bundle, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tofe_export.graph import answers

    monkeypatch.setattr(answers, "thresholds_on", lambda *args: (0.0, 0.0, 0.0))
    request = Request(keep=(7, 5, 3), budgets=(0.03,), lowerings=("adaptive",))
    extended = export(checkpoint, request, bundle.path)
    old, new = named(extended)["0.0210g-adaptive-fp32-b1"], named(extended)["0.0300g-adaptive-fp32-b1"]
    assert old.keep == new.keep
    assert old.reference != new.reference
    assert verify_bundle(extended, [old, new]).passed


OTHERS: list[tuple[str, Callable[[Checkpoint], Checkpoint], Request, int | None]] = [
    ("the checkpoint differ", lambda c: replace(c, sha256="d" * 64), MORE, None),
    (
        "the preprocessing differ",
        lambda c: replace(c, preprocessing=replace(c.preprocessing, crop=0.5)),
        MORE,
        None,
    ),
    (r"the output \(logits there, tokens here\) differ", lambda c: c, replace(MORE, output="tokens"), None),
    (r"the input \(float32 there, uint8 here\) differ", lambda c: c, replace(MORE, input="uint8"), None),
    (r"other reference images \(from three pictures\)", lambda c: c, MORE, 1),
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("message", "change", "request_", "seed"), OTHERS, ids=[o[0][:24] for o in OTHERS])
def test_another_export_is_refused(
    message: str,
    change: Callable[[Checkpoint], Checkpoint],
    request_: Request,
    seed: int | None,
    bundle: Bundle,
    checkpoint: Checkpoint,
    pictures: Make,
) -> None:
    before = contents(bundle.path.parent)
    with pytest.raises(UsageError, match=f"{message}.*--force.*--out"):
        export(change(checkpoint), request_, bundle.path, None if seed is None else pictures(seed))
    assert contents(bundle.path.parent) == before


@pytest.mark.usefixtures("quick")
def test_force_replaces(bundle: Bundle, checkpoint: Checkpoint, pictures: Make) -> None:
    other = replace(checkpoint, sha256="d" * 64)
    made = export(other, MORE, bundle.path, pictures(1), force=True)
    assert list(named(made)) == ["dense-fp32-b1", "0.0300g-scatter-fp32-b1"]
    assert contents(bundle.path).keys() == {*made.manifest.files(), "manifest.json"}
    assert made.reference().keys == ("dense", "static-5-4-2")
    assert made.manifest.model.checkpoint_sha256 == "d" * 64


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("function", "error", "force"),
    [
        ("trace", KeyboardInterrupt, False),
        ("bind", RuntimeError, False),
        ("bind", KeyboardInterrupt, True),
        ("write_atomic", OSError(28, "No space left on device"), False),
        ("_manifest", KeyboardInterrupt, False),
        ("_manifest", RuntimeError, True),
    ],
)
def test_whatever_happens_the_old_bundle_stays_whole(
    function: str,
    error: BaseException | type[BaseException],
    force: bool,
    bundle: Bundle,
    checkpoint: Checkpoint,
    pictures: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = variant_maker if function in ("bind", "write_atomic") else module
    real, calls = getattr(place, function), 0

    def fails(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1 and function in ("bind", "write_atomic"):
            return real(*args, **kwargs)  # so that something has been written
        raise error

    monkeypatch.setattr(place, function, fails)
    before = contents(bundle.path.parent)
    expected = WriteError if isinstance(error, OSError) else error
    with pytest.raises(expected):  # type: ignore[arg-type]  # mypy keeps instances apart from classes
        export(checkpoint, MORE, bundle.path, pictures(), force=force)
    assert contents(bundle.path.parent) == before
    assert [p.name for p in bundle.path.parent.iterdir()] == ["bundle"]


@pytest.mark.usefixtures("quick")
def test_nothing_is_left_of_a_first_export_that_fails(
    checkpoint: Checkpoint, pictures: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variant_maker, "count_macs", lambda model, batch: 1)
    with pytest.raises(BuildFailed, match=r"-scatter-fp32-b1 runs 0\.0000 GMACs, and the cost model says"):
        export(checkpoint, MORE, tmp_path / "new", pictures())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("file", ["weights", "reference", "graph", "missing"])
def test_a_damaged_bundle_is_not_extended(file: str, bundle: Bundle, checkpoint: Checkpoint) -> None:
    relative = {
        "weights": bundle.manifest.weights[0].file,
        "reference": "reference.npz",
        "graph": "variants/0.0210g-concat-fp32-b2.onnx",
        "missing": "variants/0.0210g-concat-fp32-b2.probe.onnx",
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
