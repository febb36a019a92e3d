"""Writing files so that a reader never meets half of one, and hashing them.

A checkpoint, a report or an engine takes seconds to minutes to make, and what stood at its path before may be
the user's only copy. So bytes go to a temporary file beside the target, are flushed to the disk, and take the
target's name in one `os.replace`: whatever happens (full disk, Ctrl-C, power), the path holds the old content
or the new one. `writing` turns the operating system's refusals into one `WriteError` that says what to do;
it belongs around code that writes, since it cannot tell a failed read from a failed write.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tofe_export.errors import WriteError

_CHUNK = 1 << 20

_ADVICE = {
    errno.ENOSPC: "free some space, or write to another disk",
    errno.EDQUOT: "the disk quota is used up: free some space, or write to another disk",
    errno.EFBIG: "the file system or a limit (ulimit -f) allows no larger file: write elsewhere",
    errno.EACCES: "choose a folder you may write to, or change its permissions",
    errno.EPERM: "choose a folder you may write to, or change its permissions",
    errno.EROFS: "write somewhere else",
    errno.ENOENT: "create the folder first (mkdir -p)",
    errno.ENOTDIR: "a part of that path is a file: choose another path",
    errno.EISDIR: "that is a folder: name a file",
    errno.EBUSY: "a mount point cannot be replaced: choose a folder inside it",
    errno.EXDEV: "a mount point cannot be replaced: choose a folder inside it",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data` (64 characters)."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in pieces of 1 MiB. Raises OSError as `open` does."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def writing(what: Path) -> Iterator[None]:
    """Raise WriteError naming `what`, the reason and a way out, where the body meets an OSError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = _ADVICE.get(error.errno or 0, "check the path and the disk")
        raise WriteError(
            f"{what} could not be written: {reason.lower()}; {advice}. Nothing was changed."
        ) from error


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk, so that it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems refuse it
            raise
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that appears at `path`, complete and on the disk, when the body ends without error.

    A symbolic link at `path` stays and its target is replaced. Devices and pipes (/dev/stdout, /dev/null)
    cannot be replaced and are written to directly. On any exception, KeyboardInterrupt included, the
    temporary file is removed and `path` is as it was. Raises WriteError for every OSError.
    """
    with writing(path):
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if target.exists() and not target.is_file():
            with open(target, "wb") as stream:
                yield stream
            return
        temporary = target.with_name(f".{target.name[:200]}.{secrets.token_hex(4)}.tmp")
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync(target.parent)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` to `path` as `atomic_file` does. Raises WriteError."""
    with atomic_file(path) as file:
        file.write(data)
