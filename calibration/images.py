"""Finding pictures in a folder, choosing some of them, and telling their labels.

The same folder must give the same pictures on every machine, in the same order, or hashes and calibration
tables differ for no reason: paths are sorted by name, and a sample is chosen by hashing positions rather than
by a random generator whose stream might change between Python versions. Labels are taken from sub-folder
names, and only where those are class names: guessing classes from the sorted order of folders, as training
code does, gives wrong accuracies as soon as a folder holds a part of the classes.

A `Selection` is such a sample together with what it was taken from, so that a calibration can say what it was
made from. It holds names and nothing else: 50,000 of them take a few megabytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from tofe_export.errors import ImageError
from tofe_export.files import sha256_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
DEFAULT_COUNT = 512  # pictures of a calibration where the user names no number

Item = TypeVar("Item")


@dataclass(frozen=True)
class Selection:
    """Pictures of one folder, in the order of their names."""

    root: Path
    names: tuple[str, ...]
    """Paths below `root`, with forward slashes."""
    found: int
    """How many pictures the folder has."""
    seed: int = 0
    """What the sample was drawn with."""

    def paths(self) -> Iterator[Path]:
        """The files, one after the other."""
        return (self.root / name for name in self.names)

    def sha256(self) -> str:
        """Hash of the contents in this order, pictures or not; files that do not open are left out."""
        digest = hashlib.sha256()
        for path in self.paths():
            with suppress(OSError):
                digest.update(sha256_file(path).encode())
        return digest.hexdigest()

    def part(self, first: int, step: int) -> Selection:
        """Every `step`-th picture, from `first` on."""
        return replace(self, names=self.names[first::step])


def select(folder: Path | str, count: int | None = None, seed: int = 0) -> Selection:
    """A sample of `count` pictures of a folder, any depth; without a number at most 512.

    Raises ImageError: no such folder, no pictures in it, or fewer than asked for.
    """
    root = Path(folder)
    names = _names(root)
    if count is not None and count > len(names):
        raise ImageError(
            f"{root}: expected at least {count} pictures, found {len(names)}. Give more, or ask for "
            f"--num-images {len(names)}"
        )
    return Selection(root, tuple(sample(names, count or DEFAULT_COUNT, seed)), len(names), seed)


def find_images(folder: Path | str) -> list[Path]:
    """All picture files below `folder`, sorted by their path; hidden ones are skipped, links are followed.

    Files are told by their suffix and not opened. Raises ImageError: no such folder, or no pictures in it.
    """
    root = Path(folder)
    return [root / name for name in _names(root)]


def sample(paths: Sequence[Item], count: int, seed: int = 0) -> list[Item]:
    """`count` of the paths, in their order; all of them if there are fewer. Raises ValueError if count < 1.

    The choice depends on the number of paths, `count` and `seed` only.
    """
    if count < 1:
        raise ValueError(f"expected to sample at least 1 picture, found {count}")
    ranked = sorted(range(len(paths)), key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    return [paths[index] for index in sorted(ranked[:count])]


def label_of(path: Path, root: Path, classes: Sequence[str]) -> int | None:
    """Index of the class that the first folder between `root` and the picture names.

    A folder names a class by its whole name or, where no other class begins so, by its first word: folders
    of WordNet ids fit "n01440764 tench, Tinca tinca". None where there is no such folder or class, or more
    than one.
    """
    folders = path.relative_to(root).parts[:-1]
    if not folders:
        return None
    for names in (list(classes), [name.split(" ", 1)[0] for name in classes]):
        if names.count(folders[0]) == 1:
            return names.index(folders[0])
    return None


def list_sha256(paths: Iterable[Path]) -> str:
    """Hash of the files' contents in this order; names do not matter. Raises ImageError."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            digest.update(sha256_file(path).encode())
    except OSError as error:
        raise ImageError(f"{error.filename}: the picture cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _names(root: Path) -> list[str]:
    """Sorted paths of the pictures below `root`. Raises ImageError as `find_images` does."""
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise ImageError(f"{root}: expected a folder with pictures, found {found}")
    names = sorted(_walk(root))
    if not names:
        raise ImageError(f"{root}: expected pictures ({' '.join(SUFFIXES)}), found a folder without any")
    return names


def _refuse(error: OSError) -> None:
    """A folder that cannot be looked into may hold any number of pictures: do not go on without them."""
    raise ImageError(
        f"{error.filename}: the folder cannot be read: {error.strerror}. Make it readable, or give another"
    ) from error


def _walk(root: Path) -> list[str]:
    """Paths of pictures relative to `root`, with forward slashes; circles of links are walked once.

    Raises ImageError for a folder that cannot be read.
    """
    found: list[str] = []
    seen: set[str] = set()
    for folder, folders, names in os.walk(root, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        pictures = [n for n in names if not n.startswith(".") and n.lower().endswith(SUFFIXES)]
        found += [Path(folder, name).relative_to(root).as_posix() for name in pictures]
    return found
