"""Files appear complete or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tofe_export import files
from tofe_export.errors import WriteError
from tofe_export.files import atomic_file, sha256_bytes, sha256_file, write_atomic, writing

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def tiny_disk(make_disk: Callable[[str], Path]) -> Path:
    return make_disk("64k")


def test_hashes_agree(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * (3 << 20))
    assert sha256_file(tmp_path / "f") == sha256_bytes(b"x" * (3 << 20))
    assert sha256_bytes(b"") == EMPTY


def test_write_atomic_creates_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["f"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "f", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic_file(path) as file:  # noqa: PT012 - half a file is the point
        file.write(b"half")
        raise error
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_disk_full_leaves_the_old_file(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(WriteError, match=r"f could not be written: no space left on device; free some space"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_disk_that_is_really_full(tiny_disk: Path) -> None:
    path = tiny_disk / "f"
    path.write_bytes(b"old")
    with pytest.raises(WriteError, match="no space left"):
        write_atomic(path, b"x" * (1 << 20))
    assert path.read_bytes() == b"old"
    assert names(tiny_disk) == ["f"]


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_device_is_written_to_and_not_replaced() -> None:
    write_atomic(Path("/dev/null"), b"gone")
    assert Path("/dev/null").is_char_device()


def test_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="that is a folder: name a file"):
        write_atomic(tmp_path, b"")


def test_refuses_a_missing_folder_and_a_file_as_folder(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="create the folder first"):
        write_atomic(tmp_path / "missing" / "f", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WriteError, match="a part of that path is a file"):
        write_atomic(tmp_path / "file" / "f", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_refuses_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(WriteError, match="choose a folder you may write to"):
        write_atomic(tmp_path / "f", b"")


def test_a_killed_process_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    code = (
        "import os, sys; from pathlib import Path; from tofe_export.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as f: f.write(b'half'); f.flush(); os._exit(9)"
    )
    root = Path(files.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code, path], cwd=root, check=False).returncode == 9
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EXDEV, errno.ENAMETOOLONG, errno.EIO])
def test_writing_maps_every_reason(code: int) -> None:
    with pytest.raises(WriteError) as caught, writing(Path("out.pt")):
        raise OSError(code, os.strerror(code))
    assert caught.value.exit_code == 8
    assert str(caught.value).startswith("out.pt could not be written: " + os.strerror(code).lower())


def test_writing_lets_other_errors_through() -> None:
    with pytest.raises(ValueError, match="mine"), writing(Path("f")):
        raise ValueError("mine")
