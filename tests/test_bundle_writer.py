"""Writing bundles: whatever fails, and whenever, the path holds the old bundle or the new one."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tofe_export import bundle_writer, directories
from tofe_export.bundle import Bundle
from tofe_export.bundle_writer import BundleWriter
from tofe_export.errors import WriteError
from tofe_export.files import sha256_bytes, write_atomic
from tofe_export.manifest import Manifest

Build = Callable[[Path], Bundle]
Renamed = Callable[[Manifest, str], Manifest]
PRODUCT = "variants/2.00g-scatter-fp32-b1.onnx"


def tree(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rewritten(manifest: Manifest, data: bytes) -> Manifest:
    """The manifest after `data` was written to PRODUCT."""
    variants = [replace(v, sha256=sha256_bytes(data)) if v.file == PRODUCT else v for v in manifest.variants]
    return replace(manifest, variants=tuple(variants))


def extend(bundle: Bundle, data: bytes = b"new graph") -> Bundle:
    with BundleWriter(bundle.path, bundle) as writer:
        writer.path(PRODUCT).write_bytes(data)
        return writer.commit(rewritten(bundle.manifest, data))


def test_a_new_bundle(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with BundleWriter(out) as writer:
        assert writer.existing(PRODUCT) is None
        for relative in bundle.manifest.files():
            shutil.copy(bundle.file(relative), writer.path(relative))
        assert writer.existing(PRODUCT) is not None
        assert not out.exists()
        made = writer.commit(bundle.manifest)
    made.check(made.manifest.variants)
    assert Bundle.open(out).manifest == bundle.manifest
    assert names(tmp_path) == ["bundle", "out"]


def test_names_that_are_no_unicode_survive(bundle: Bundle, tmp_path: Path) -> None:
    source = os.fsdecode(b"photos \xff caf\xc3\xa9")
    manifest = replace(bundle.manifest, reference=replace(bundle.manifest.reference, source=source))
    with BundleWriter(tmp_path / "out", bundle) as writer:
        writer.commit(manifest)
    assert Bundle.open(tmp_path / "out").manifest.reference.source == source
    assert "café".encode() in (tmp_path / "out/manifest.json").read_bytes()


def test_an_empty_folder_may_be_filled_and_a_link_followed(build_bundle: Build, tmp_path: Path) -> None:
    base = build_bundle(tmp_path / "base")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/real").mkdir()
    (tmp_path / "link").symlink_to("disk/real")
    with BundleWriter(tmp_path / "link", base) as writer:
        made = writer.commit(base.manifest)
    assert made.path == tmp_path / "link"
    assert (tmp_path / "link").is_symlink()
    Bundle.open(tmp_path / "disk/real").check(base.manifest.variants)
    assert names(tmp_path / "disk") == ["real"]


def test_extending_shares_files_and_keeps_engines(bundle: Bundle, tmp_path: Path) -> None:
    (bundle.path / "engines").mkdir()
    (bundle.path / "engines/x.plan").write_bytes(b"engine")
    (bundle.path / "notes.txt").write_text("mine")
    before = os.stat(bundle.file(PRODUCT)).st_ino, os.stat(bundle.file("reference.npz")).st_ino
    with open(bundle.file(PRODUCT), "rb") as held:
        extended = extend(bundle)
        assert held.read() == b"2.00g-scatter-fp32-b1"
    assert extended.file(PRODUCT).read_bytes() == b"new graph"
    assert os.stat(extended.file(PRODUCT)).st_ino != before[0]
    assert os.stat(extended.file("reference.npz")).st_ino == before[1]
    assert (bundle.path / "engines/x.plan").read_bytes() == b"engine"
    assert (bundle.path / "notes.txt").read_text() == "mine"
    Bundle.open(bundle.path).check(extended.manifest.variants)
    assert names(tmp_path) == ["bundle"]


def test_an_engine_built_in_the_meantime_is_kept(bundle: Bundle) -> None:
    with BundleWriter(bundle.path, bundle) as writer:
        (bundle.path / "engines").mkdir()
        (bundle.path / "engines/late.plan").write_bytes(b"late")
        writer.commit(bundle.manifest)
    assert (bundle.path / "engines/late.plan").read_bytes() == b"late"


def test_starting_anew_drops_the_old_bundle(bundle: Bundle, build_bundle: Build, tmp_path: Path) -> None:
    other = build_bundle(tmp_path / "other")
    (bundle.path / "engines").mkdir()
    (bundle.path / "variants/old.onnx").write_bytes(b"")
    with BundleWriter(bundle.path) as writer:
        for relative in other.manifest.files():
            shutil.copy(other.file(relative), writer.path(relative))
        writer.commit(other.manifest)
    assert names(bundle.path) == ["manifest.json", "reference.npz", "variants"]
    assert not (bundle.path / "variants/old.onnx").exists()


def test_graphs_that_the_manifest_does_not_name_are_left_out(bundle: Bundle) -> None:
    fewer = replace(bundle.manifest, variants=bundle.manifest.variants[:1])
    with BundleWriter(bundle.path, bundle) as writer:
        writer.commit(fewer)
    assert names(bundle.path / "variants") == ["dense-fp32-b1.onnx", "weights-0123456789ab.bin"]


def test_the_manifest_must_fit_the_files(bundle: Bundle, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match=r"files that were not written: reference\.npz, variants/"),
        BundleWriter(tmp_path / "out") as writer,
    ):
        writer.commit(bundle.manifest)
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("escape", ["/etc/x", "../x", "variants/../../x", ""])
def test_paths_stay_inside(tmp_path: Path, escape: str) -> None:
    with BundleWriter(tmp_path / "out") as writer, pytest.raises(ValueError, match="inside the bundle"):
        writer.path(escape)


def test_the_manifest_is_not_written_by_hand(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "out") as writer, pytest.raises(ValueError, match="written by commit"):
        writer.path("manifest.json")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, WriteError])
def test_an_exception_leaves_the_old_bundle(
    bundle: Bundle, tmp_path: Path, error: type[BaseException]
) -> None:
    before = tree(bundle.path)
    with pytest.raises(error), BundleWriter(bundle.path, bundle) as writer:  # noqa: PT012 - half is the point
        writer.path(PRODUCT).write_bytes(b"half")
        raise error
    assert tree(bundle.path) == before
    assert names(tmp_path) == ["bundle"]


def test_leaving_without_commit_changes_nothing(bundle: Bundle, tmp_path: Path) -> None:
    before = tree(bundle.path)
    with BundleWriter(bundle.path, bundle) as writer:
        writer.path(PRODUCT).write_bytes(b"half")
    assert tree(bundle.path) == before
    assert names(tmp_path) == ["bundle"]


def test_a_failed_write_in_the_body_becomes_a_write_error(bundle: Bundle, tmp_path: Path) -> None:
    before = tree(bundle.path)
    with pytest.raises(WriteError, match="free some space"), BundleWriter(bundle.path, bundle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert tree(bundle.path) == before
    assert names(tmp_path) == ["bundle"]


def test_an_error_of_what_writes_names_the_bundle(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(WriteError) as error, BundleWriter(bundle.path, bundle) as writer:
        write_atomic(writer.path("variants/no") / "weights.bin", b"")
    assert str(error.value).startswith(f"{bundle.path}/variants/no/weights.bin could not be written: ")
    assert names(tmp_path) == ["bundle"]


class Fault:
    """Makes the n-th of all calls that change the disk fail."""

    CALLS = ("mkdir", "link", "unlink", "fsync", "rename", "replace", "open")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> None:
        self.calls, self.at, self.error = 0, at, error
        for name in self.CALLS:
            monkeypatch.setattr(os, name, self.wrap(getattr(os, name)))

    def wrap(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            self.calls += 1
            if self.calls == self.at:
                raise self.error
            return real(*args, **kwargs)

        return call


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("exchange", [True, False])
@pytest.mark.parametrize("extending", [True, False])
def test_a_failure_at_any_moment_leaves_the_old_bundle_or_the_new(
    build_bundle: Build, tmp_path: Path, error: BaseException, exchange: bool, extending: bool
) -> None:
    for at in itertools.count(1):
        with pytest.MonkeyPatch.context() as patch:
            folder = tmp_path / str(at)
            source = build_bundle(folder / "bundle")
            bundle = source if extending else replace(source, path=folder / "new")
            before = tree(bundle.path)
            if not exchange:
                patch.setattr(directories, "_exchange", lambda *_: False)
            fault = Fault(patch, at, error)
            try:
                with BundleWriter(bundle.path, source) as writer:
                    writer.path(PRODUCT).write_bytes(b"new graph")
                    writer.commit(rewritten(source.manifest, b"new graph"))
                failed = False
            except (WriteError, KeyboardInterrupt):
                failed = True
        if isinstance(error, OSError) and failed:
            assert tree(bundle.path) == before
            assert names(folder) == ["bundle"]
        elif tree(bundle.path) != before:
            Bundle.open(bundle.path).check(source.manifest.variants[:1])
            assert Bundle.open(bundle.path).file(PRODUCT).read_bytes() == b"new graph"
        directories.clean(bundle.path)
        assert not [name for name in names(folder) if name.startswith(".")]
        if fault.calls < at:
            assert not failed
            assert at > 10
            break


@pytest.fixture
def tiny_disk(make_disk: Callable[[str], Path]) -> Path:
    return make_disk("256k")


def test_a_disk_that_is_really_full(build_bundle: Build, tiny_disk: Path) -> None:
    bundle = build_bundle(tiny_disk / "bundle")
    before = tree(bundle.path)
    with pytest.raises(WriteError, match="no space left on device; free some space"):
        extend(bundle, b"x" * (1 << 20))
    assert tree(bundle.path) == before
    assert names(tiny_disk) == ["bundle"]
    extend(bundle)


def test_a_mount_point_cannot_be_replaced(build_bundle: Build, tiny_disk: Path, tmp_path: Path) -> None:
    base = build_bundle(tmp_path / "base")
    with (
        pytest.raises(WriteError, match="a mount point cannot be replaced: choose a folder inside it"),
        BundleWriter(tiny_disk, base) as writer,
    ):
        writer.commit(base.manifest)
    assert names(tmp_path) == ["base", "disk of 256k"]


def test_foreign_things_are_never_deleted(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/thesis.tex").write_text("mine")
    (tmp_path / "webapp").mkdir()
    (tmp_path / "webapp/manifest.json").write_text('{"name": "app", "tool": null}')
    (bundle.path / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    for name, found in [
        ("file", "a file"),
        ("folder", "a folder with other content"),
        ("webapp", "a folder with other content"),
        ("bundle", "notes.txt"),
    ]:
        with pytest.raises(WriteError, match=f"found {found}. Nothing was changed") as caught:
            BundleWriter(tmp_path / name).__enter__()
        assert caught.value.exit_code == 8
    assert tree(tmp_path) == before


def test_a_missing_parent(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="create the folder first"):
        BundleWriter(tmp_path / "none/out").__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="choose a folder you may write to"):
        BundleWriter(tmp_path / "out").__enter__()


def test_a_read_only_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(WriteError, match="read-only file system; write somewhere else"):
        BundleWriter(tmp_path / "out").__enter__()


def test_two_writers_do_not_lose_each_others_work(bundle: Bundle, renamed: Renamed) -> None:
    with BundleWriter(bundle.path, bundle) as writer:
        changed = renamed(bundle.manifest, "other")
        (bundle.path / "manifest.json").write_text(json.dumps(changed.to_json()), encoding="utf-8")
        with pytest.raises(WriteError, match="another process changed the bundle"):
            writer.commit(bundle.manifest)
    assert Bundle.open(bundle.path).manifest.tool_version == "other"


def test_a_killed_writer_leaves_the_old_bundle_and_the_next_cleans_up(bundle: Bundle, tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom tofe_export.bundle import Bundle\n"
        "from tofe_export.bundle_writer import BundleWriter\n"
        "bundle = Bundle.open(sys.argv[1])\n"
        "with BundleWriter(bundle.path, bundle): os._exit(9)"
    )
    before = tree(bundle.path)
    root = Path(bundle_writer.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code, bundle.path], cwd=root, check=False).returncode == 9
    assert tree(bundle.path) == before
    assert len(names(tmp_path)) == 2
    extend(bundle)
    assert names(tmp_path) == ["bundle"]
