"""Replacing a directory at once, and cleaning up after processes that were killed while doing so.

POSIX `rename` puts a directory in the place of an empty one only. Linux can exchange two paths atomically
(renameat2, since 3.15), but not on every file system, and other systems not at all; the fallback is two
renames, with a moment in which the target is missing. If the process dies in that moment, the old directory
is still there under a hidden name, and `clean` puts it back. Hidden names end in the process id, which tells
whether their owner is still at work.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

from tofe_export.files import sync

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.EMLINK, *_UNSUPPORTED)


def replace(target: Path, staging: Path) -> None:
    """Put directory `staging` at `target`; what was at `target`, if anything, is at `staging` afterwards.

    Raises OSError with both as they were.
    """
    fresh = not target.exists()
    _exchange_or_move(target, staging, fresh)
    try:
        sync(target.parent)
    except BaseException:
        if fresh:
            os.rename(target, staging)
        else:
            _exchange_or_move(target, staging, fresh)
        raise


def _exchange_or_move(target: Path, staging: Path, fresh: bool) -> None:
    if fresh:
        os.rename(staging, target)
    elif not _exchange(target, staging):
        _swap_by_renames(target, staging)


def clean(target: Path) -> None:
    """Remove what dead processes left beside `target`, putting an interrupted swap back. Raises OSError."""
    for old in _left_behind(target, "old"):
        if target.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, target)
    for staging in _left_behind(target, "staging"):
        shutil.rmtree(staging)


def link_tree(source: Path, destination: Path) -> None:
    """Hard-link every file of `source` into the existing folder `destination`; copy where links cannot be.

    What is already there stays. Symbolic links are copied as links, permissions of folders are kept,
    temporary files of `files.atomic_file` are left out. Raises OSError.
    """
    shutil.copymode(source, destination)
    with os.scandir(source) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        copy = destination / entry.name
        if entry.is_dir(follow_symlinks=False):
            copy.mkdir(exist_ok=True)
            link_tree(Path(entry.path), copy)
        elif not copy.exists() and not (entry.name.startswith(".") and entry.name.endswith(".tmp")):
            _link(Path(entry.path), copy)


def sync_tree(folder: Path) -> None:
    """Flush every folder, and every file that has one name only, to the disk. Raises OSError.

    A file with more names is a hard link into an older bundle, which was flushed when that was made.
    """
    for root, _, names in os.walk(folder):
        for path in (Path(root, name) for name in names):
            if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
                sync(path)
        sync(Path(root))


def _link(source: Path, destination: Path) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copy2(source, destination, follow_symlinks=False)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths atomically; False where the system or the file system cannot. Raises OSError."""
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):  # musl, old glibc
        return False
    done = library.renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(first))


def _swap_by_renames(target: Path, staging: Path) -> None:
    aside = target.with_name(f".{target.name}.old-{os.getpid()}")
    try:
        os.rename(target, aside)
        os.rename(staging, target)
        os.rename(aside, staging)
    except BaseException:
        if aside.exists():
            if target.exists():
                os.rename(target, staging)
            os.rename(aside, target)
        raise


def _left_behind(target: Path, kind: str) -> list[Path]:
    prefix = f".{target.name}.{kind}-"
    found = [path for path in target.parent.iterdir() if path.name.startswith(prefix)]
    return [path for path in found if not _alive(path.name[len(prefix) :])]


def _alive(pid: str) -> bool:
    """Whether another process has this id. Our own can only stem from a dead one that had it before."""
    if not pid.isdigit():
        return True  # not a name of ours: leave it alone
    if int(pid) == os.getpid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
