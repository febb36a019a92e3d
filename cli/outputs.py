"""Where a checkpoint may be written: settled before the work, so that nothing is made in vain or lost."""

from __future__ import annotations

import os
from pathlib import Path

from tofe_export.errors import UsageError, WriteError


def check(path: Path, *, force: bool) -> Path:
    """Return `path` where a file can be written there.

    Raises UsageError where a file would be lost that `force` does not give up, WriteError where none can be.
    """
    target = Path(os.path.realpath(path))  # where writing goes: through a symbolic link
    folder = target.parent
    if os.path.isdir(target):
        raise WriteError(f"{path} could not be written: that is a folder; name a file")
    if os.path.exists(target) and not os.path.isfile(target):
        return path  # a device or a pipe
    if not os.path.isdir(folder):
        raise WriteError(
            f"{path} could not be written: there is no folder {folder}; create it first (mkdir -p)"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise WriteError(f"{path} could not be written: {folder} is not writable; choose another folder")
    if os.path.exists(target) and not force:
        raise UsageError(f"{path} is there already: write elsewhere by --out FILE, or replace it by --force")
    return path
