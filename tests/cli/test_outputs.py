"""Where checkpoints may be written: nothing that is there is replaced unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tofe_export.cli import outputs
from tofe_export.errors import UsageError, WriteError


def test_a_new_file_may_be_written(tmp_path: Path) -> None:
    assert outputs.check(tmp_path / "new.pt", force=False) == tmp_path / "new.pt"


def test_a_file_is_replaced_only_with_force(tmp_path: Path) -> None:
    (tmp_path / "trained.pt").write_text("weeks of work")
    (tmp_path / "link.pt").symlink_to("trained.pt")
    for path in (tmp_path / "trained.pt", tmp_path / "link.pt"):
        with pytest.raises(UsageError, match=f"{path.name} is there already.*--force"):
            outputs.check(path, force=False)
        assert outputs.check(path, force=True) == path


@pytest.mark.parametrize("force", [False, True])
def test_what_cannot_be_written(tmp_path: Path, force: bool) -> None:
    (tmp_path / "link.pt").symlink_to("no/such.pt")
    with pytest.raises(WriteError, match="that is a folder"):
        outputs.check(tmp_path, force=force)
    for path in (tmp_path / "no" / "new.pt", tmp_path / "link.pt"):
        with pytest.raises(WriteError, match="create it first"):
            outputs.check(path, force=force)


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write anywhere
    with pytest.raises(WriteError, match="is not writable"):
        outputs.check(tmp_path / "new.pt", force=True)


def test_a_device_is_no_file_that_could_be_lost() -> None:
    assert outputs.check(Path("/dev/null"), force=False) == Path("/dev/null")
