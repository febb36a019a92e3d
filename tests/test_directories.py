"""Swapping directories, and cleaning up after the dead."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tofe_export import directories


def folder(path: Path, content: str) -> Path:
    path.mkdir()
    (path / "f").write_text(content)
    return path


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(directories, "_exchange", lambda *_: False)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_replace_swaps(tmp_path: Path) -> None:
    target, staging = folder(tmp_path / "t", "old"), folder(tmp_path / "s", "new")
    directories.replace(target, staging)
    assert (target / "f").read_text() == "new"
    assert (staging / "f").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_replace_moves_where_nothing_was(tmp_path: Path) -> None:
    directories.replace(tmp_path / "t", folder(tmp_path / "s", "new"))
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a Linux system call")
def test_exchange_happens_on_linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "_swap_by_renames", lambda *_: pytest.fail("not atomic"))
    directories.replace(folder(tmp_path / "t", "old"), folder(tmp_path / "s", "new"))
    assert (tmp_path / "t/f").read_text() == "new"


def test_exchange_reports_other_failures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        directories._exchange(folder(tmp_path / "t", "old"), tmp_path / "none")


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EINVAL])
def test_exchange_says_where_the_file_system_cannot(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Library:
        @staticmethod
        def renameat2(*_: object) -> int:
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Library)
    monkeypatch.setattr(ctypes, "get_errno", lambda: code)
    directories.replace(folder(tmp_path / "t", "old"), folder(tmp_path / "s", "new"))
    assert (tmp_path / "t/f").read_text() == "new"


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_two_renames_are_undone(
    tmp_path: Path, call: int, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, staging = folder(tmp_path / "t", "old"), folder(tmp_path / "s", "new")
    real, calls = os.rename, []

    def rename(source: Path, destination: Path) -> None:
        calls.append(source)
        if len(calls) == call:
            raise error
        real(source, destination)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(type(error)):
        directories._swap_by_renames(target, staging)
    assert (target / "f").read_text() == "old"
    assert (staging / "f").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.usefixtures("way")
def test_a_failed_flush_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(directories, "sync", fail)
    target, staging = folder(tmp_path / "t", "old"), folder(tmp_path / "s", "new")
    for name, here in ((target, "old"), (tmp_path / "fresh", None)):
        with pytest.raises(OSError, match="broken"):
            directories.replace(name, staging)
        assert (staging / "f").read_text() == "new"
        assert (name / "f").read_text() == here if here else not name.exists()


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_clean_removes_what_the_dead_left_and_nothing_else(tmp_path: Path) -> None:
    target = folder(tmp_path / "t", "old")
    for name in (f".t.staging-{dead_pid()}", f".t.old-{dead_pid()}", f".t.staging-{os.getpid()}"):
        folder(tmp_path / name, "left")
    others = (f".t.staging-{os.getppid()}", ".t.staging-mine", ".u.staging-1", ".t.staging-" + "9" * 40)
    for name in others:
        folder(tmp_path / name, "foreign")
    directories.clean(target)
    assert {path.name for path in tmp_path.iterdir()} == {"t", *others}


def test_clean_puts_an_interrupted_swap_back(tmp_path: Path) -> None:
    folder(tmp_path / f".t.old-{dead_pid()}", "old")
    directories.clean(tmp_path / "t")
    assert (tmp_path / "t/f").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_link_tree(tmp_path: Path) -> None:
    source = folder(tmp_path / "s", "x")
    source.chmod(0o750)
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/deep").write_text("y")
    (source / "link").symlink_to("f")
    (source / "broken").symlink_to("nowhere")
    (source / ".f.12345678.tmp").write_text("half")
    copy = tmp_path / "c"
    copy.mkdir()
    (copy / "a").mkdir()
    (copy / "f").write_text("stays")
    directories.link_tree(source, copy)
    assert (copy / "f").read_text() == "stays"
    assert (copy / "a/b/deep").samefile(source / "a/b/deep")
    assert os.readlink(copy / "link") == "f"
    assert (copy / "broken").is_symlink()
    assert not (copy / ".f.12345678.tmp").exists()
    assert copy.stat().st_mode & 0o777 == 0o750


def test_link_tree_copies_where_links_are_not_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "other disk")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "c").mkdir()
    directories.link_tree(folder(tmp_path / "s", "x"), tmp_path / "c")
    assert (tmp_path / "c/f").read_text() == "x"
    assert not (tmp_path / "c/f").samefile(tmp_path / "s/f")


def test_link_tree_reports_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "c").mkdir()
    with pytest.raises(OSError, match="full"):
        directories.link_tree(folder(tmp_path / "s", "x"), tmp_path / "c")
