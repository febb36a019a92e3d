"""Reading bundles: sound ones, damaged ones, and ones that try to leave their folder."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, VariantError
from tofe_export.manifest import Manifest
from tofe_export.reference import Reference

NAMES = ["dense-fp32-b1", "2.00g-scatter-fp32-b1", "1.50g-scatter-fp32-b4"]


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the manifest on the disk behind the bundle's back."""
    file = bundle.path / "manifest.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    change(data)
    file.write_text(json.dumps(data), encoding="utf-8")
    return bundle.path


def test_open_reads_what_was_written(bundle: Bundle) -> None:
    opened = Bundle.open(bundle.path)
    assert opened == bundle
    assert opened.manifest.variants[1].extra == {"nodes": {"selector": ["MatMul_1"]}}
    assert opened.manifest.to_json() == bundle.manifest.to_json()


def test_open_uses_the_default_path(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.path.rename(bundle.path.with_name("tofe_bundle"))
    monkeypatch.chdir(bundle.path.parent)
    assert Bundle.open().manifest == bundle.manifest


def test_open_names_the_command_that_makes_a_bundle(tmp_path: Path) -> None:
    for path, found in [(tmp_path / "none", "nothing"), (tmp_path, "a folder without manifest.json")]:
        with pytest.raises(
            BundleError, match=rf"found {found}. Make one with: tofe-export onnx --ckpt FILE"
        ) as e:
            Bundle.open(path)
        assert e.value.exit_code == 4
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="found a file"):
        Bundle.open(tmp_path / "file")


@pytest.mark.parametrize("data", [b"", b"{", b'{"schema_version": 1, "too', b"\xff\xfe\x00", b"[" * 100_000])
def test_a_truncated_or_binary_manifest(bundle: Bundle, data: bytes) -> None:
    (bundle.path / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(bundle.path)


def test_every_truncation_of_the_manifest_is_noticed(bundle: Bundle) -> None:
    data = (bundle.path / "manifest.json").read_bytes()
    for length in range(0, len(data), 97):
        (bundle.path / "manifest.json").write_bytes(data[:length])
        with pytest.raises(BundleError):
            Bundle.open(bundle.path)


def test_a_newer_schema_says_upgrade(bundle: Bundle) -> None:
    path = edit(bundle, lambda data: data.update(schema_version=2, something_new=1))
    with pytest.raises(
        BundleError, match=r"schema version 2, this tofe-export reads up to 1: upgrade tofe-export"
    ):
        Bundle.open(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("model"), "model: expected this key, found none"),
        (lambda d: d.update(schema_version="1"), "schema_version: expected an integer"),
        (lambda d: d.update(stray=1), "unknown key 'stray'"),
        (lambda d: d["tool"].update(name="other"), "tool.name: expected one of tofe-export, found 'other'"),
        (lambda d: d["model"].update(output="boxes"), "model.output: expected one of logits"),
        (lambda d: d["model"].update(grid=[2]), "model.grid: expected [rows, columns], found [2]"),
        (lambda d: d["model"].update(stray=1), "model: unknown key 'stray'"),
        (lambda d: d["cost"].update(depth=0), "depth"),
        (
            lambda d: d["preprocessing"].update(crop=0),
            "preprocessing.crop: expected a share in (0, 1], found 0",
        ),
        (lambda d: d["variants"][1].update(keep="2"), "variants[1].keep: expected a list, found '2'"),
        (lambda d: d["variants"][1].update(batch="any"), "variants[1].batch: expected an integer"),
        (lambda d: d["variants"][1].update(lowering="x"), "variants[1].lowering: expected one of scatter"),
        (lambda d: d["variants"][1]["probe"].pop("sha256"), "variants[1].probe.sha256: expected this key"),
        (lambda d: d["variants"][1].update(name="dense-fp32-b1"), "found dense-fp32-b1 more than once"),
        (lambda d: d["variants"][1].update(weights=["w"]), "weights w are not listed"),
    ],
)
def test_wrong_entries_are_named(
    bundle: Bundle, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = edit(bundle, change)
    with pytest.raises(BundleError, match=re.escape(message)) as caught:
        Bundle.open(path)
    assert str(path) in str(caught.value)


def test_a_manifest_that_is_no_object(bundle: Bundle) -> None:
    (bundle.path / "manifest.json").write_text("[]")
    with pytest.raises(BundleError, match=r"the file: expected an object, found \[\]"):
        Bundle.open(bundle.path)


def test_an_older_manifest_says_nothing_of_its_input(bundle: Bundle) -> None:
    data = bundle.manifest.to_json()
    assert data["model"].pop("input") == "float32"
    assert Manifest.from_json(data) == bundle.manifest
    data["model"]["input"] = "uint8"
    assert Manifest.from_json(data).model.takes_frames
    data["model"]["input"] = "bfloat16"
    with pytest.raises(BundleError, match=r"model\.input: expected one of float32, uint8"):
        Manifest.from_json(data)


def test_a_dynamic_batch_survives(bundle: Bundle) -> None:
    path = edit(bundle, lambda data: data["variants"][1].update(batch="dyn"))
    opened = Bundle.open(path)
    assert opened.manifest.variants[1].batch == "dyn"
    assert opened.select(batches=("dyn",)) == [opened.manifest.variants[1]]


@pytest.mark.parametrize("escape", ["/etc/passwd", "../x", "variants/../../x", "..", "", ".", "a\\b", "a\0b"])
def test_paths_do_not_leave_the_bundle(bundle: Bundle, escape: str) -> None:
    with pytest.raises(BundleError, match="expected paths inside the bundle"):
        bundle.file(escape)
    path = edit(bundle, lambda data: data["variants"][0].update(file=escape))
    with pytest.raises(BundleError, match="expected paths inside the bundle"):
        Bundle.open(path)


def test_links_do_not_leave_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"")
    (bundle.path / "variants/out.onnx").symlink_to("../../secret")
    (bundle.path / "variants/circle").symlink_to("circle")
    (bundle.path / "folder").symlink_to(tmp_path)
    for relative in ("variants/out.onnx", "folder/secret"):
        with pytest.raises(BundleError, match="leads out of it"):
            bundle.file(relative)
    (bundle.path / "variants/in.onnx").symlink_to("dense-fp32-b1.onnx")
    assert bundle.file("variants/in.onnx").read_bytes() == b"dense"


def test_a_bundle_may_be_reached_by_a_link(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle.path)
    opened = Bundle.open(tmp_path / "link")
    opened.check(opened.manifest.variants)


def test_variant_by_name_and_default(bundle: Bundle) -> None:
    assert bundle.variant(NAMES[0]).dense
    assert bundle.default_variant().name == NAMES[1]
    with pytest.raises(VariantError, match=r"no variant 'x'. Choose from: dense-fp32-b1, 2.00g") as caught:
        bundle.variant("x")
    assert caught.value.exit_code == 2


def test_default_variant_of_dense_and_empty_bundles(bundle: Bundle) -> None:
    dense = replace(bundle, manifest=replace(bundle.manifest, variants=bundle.manifest.variants[:1]))
    assert dense.default_variant().dense
    empty = replace(bundle, manifest=replace(bundle.manifest, variants=()))
    with pytest.raises(VariantError, match="holds no variants"):
        empty.default_variant()
    assert empty.select() == []


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        ({}, [0, 1, 2]),
        ({"names": [NAMES[2], NAMES[0]]}, [0, 2]),
        ({"budgets": [2.004]}, [1]),
        ({"budgets": [1.5, 2.0]}, [1, 2]),
        ({"lowerings": ["dense"]}, [0]),
        ({"precisions": ["fp32"]}, [0, 1, 2]),
        ({"batches": [4]}, [2]),
        ({"lowerings": ["scatter"], "batches": [1]}, [1]),
    ],
)
def test_select(bundle: Bundle, filters: dict[str, Any], chosen: list[int]) -> None:
    assert bundle.select(**filters) == [bundle.manifest.variants[index] for index in chosen]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"names": ["x"]}, "no variant with variant x"),
        ({"budgets": [2.0, 3.0]}, "budget 3.00"),
        ({"precisions": ["fp16"]}, "precision fp16"),
        ({"lowerings": ["dense"], "batches": [4]}, "batch 4"),
    ],
)
def test_select_refuses_what_is_not_there(bundle: Bundle, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(VariantError, match=message):
        bundle.select(**filters)


def test_check_passes_and_sees_each_changed_or_missing_file(bundle: Bundle) -> None:
    bundle.check(bundle.manifest.variants)
    for relative in bundle.manifest.files():
        file = bundle.path / relative
        data = file.read_bytes()
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        os.utime(file, ns=(1, 1))
        with pytest.raises(
            BundleError, match=f"{re.escape(str(file))}: expected sha256 [0-9a-f]+, found sha256"
        ):
            bundle.check(bundle.manifest.variants)
        file.unlink()
        with pytest.raises(BundleError, match=r"found no such file. The bundle is incomplete or was changed"):
            bundle.check(bundle.manifest.variants)
        file.write_bytes(data)
    bundle.check(bundle.manifest.variants)


def test_check_asks_only_for_what_the_variants_need(bundle: Bundle) -> None:
    (bundle.path / "variants" / f"{NAMES[2]}.onnx").unlink()
    (bundle.path / "reference.npz").unlink()
    bundle.check([bundle.variant(NAMES[1])], reference=False)
    with pytest.raises(BundleError, match=r"reference\.npz"):
        bundle.check([bundle.variant(NAMES[1])])


def test_check_does_not_read_a_proven_file_again(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle.check(bundle.manifest.variants)
    monkeypatch.setattr("tofe_export.bundle.sha256_file", lambda path: pytest.fail(f"read {path} again"))
    bundle.check(bundle.manifest.variants)


def test_a_folder_in_a_files_place(bundle: Bundle) -> None:
    (bundle.path / "reference.npz").unlink()
    (bundle.path / "reference.npz").mkdir()
    with pytest.raises(BundleError, match="Is a directory"):
        bundle.check([])


def test_reference(bundle: Bundle, reference: Reference) -> None:
    np.testing.assert_array_equal(bundle.reference().images, reference.images)
    wrong = replace(bundle.manifest, reference=replace(bundle.manifest.reference, count=3))
    with pytest.raises(BundleError, match="expected 3 images, found 2"):
        replace(bundle, manifest=wrong).reference()
