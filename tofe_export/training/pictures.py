"""Labelled pictures that are opened one at a time, possibly in many worker processes at once.

So a source can be pickled, and what it holds open is not shared between processes. Here: the base class and
folders; tar files and other collections have their own modules.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from tofe_export.calibration.images import SUFFIXES, find_images
from tofe_export.errors import ImageError, InputError
from tofe_export.preprocess import load_image


class Pictures(ABC):
    """Labelled pictures, known by their position."""

    classes: tuple[str, ...]
    """Names of the classes; the position of a name is the class' index."""
    targets: Sequence[int]
    """The class of each picture."""

    def __len__(self) -> int:
        return len(self.targets)

    def target(self, position: int) -> int:
        """Class of one picture."""
        return int(self.targets[position])

    @abstractmethod
    def load(self, position: int) -> Image.Image:
        """One picture as RGB, upright. Raises ImageError if it cannot be read."""

    @abstractmethod
    def name(self, position: int) -> str:
        """What messages call the picture."""

    def key(self, position: int) -> str:
        """What the fingerprint calls the picture: the same wherever the source is kept."""
        return self.name(position)

    def size(self, position: int) -> int:
        """Bytes of the picture's file, 0 where that is not known without reading it."""
        return 0

    def gone(self) -> str | None:
        """A message if the whole source disappeared since it was opened, else None."""
        return None

    def close(self) -> None:
        """Let go of open files; they are opened again where needed."""
        return


class FolderPictures(Pictures):
    """A folder with one sub-folder per class.

    Classes are numbered in timm's order of folder names: as people count ("class2" before "class10"), letters
    without regard to case. A picture belongs to the first folder below `root`, however deep it lies. Hidden
    files and folders are skipped.
    """

    def __init__(self, root: Path) -> None:
        """Raises InputError: no such folder, fewer than 2 classes, an empty one, or pictures beside them."""
        self.root = root
        self.classes = _class_folders(root)
        files = [_pictures_of(root / name) for name in self.classes]
        self.files = [str(file.relative_to(root)) for paths in files for file in paths]
        self.targets = [target for target, paths in enumerate(files) for _ in paths]

    def load(self, position: int) -> Image.Image:
        """As `Pictures.load`."""
        return load_image(self.root / self.files[position])

    def name(self, position: int) -> str:
        """The file's path."""
        return str(self.root / self.files[position])

    def key(self, position: int) -> str:
        """The file's path below the folder."""
        return Path(self.files[position]).as_posix()

    def size(self, position: int) -> int:
        """Bytes of the file, 0 if it cannot be found."""
        try:
            return (self.root / self.files[position]).stat().st_size
        except OSError:
            return 0

    def gone(self) -> str | None:
        """A message if the folder is not there any more, or empty as where a disk was unmounted."""
        return gone_message(self.root)


def gone_message(path: Path) -> str | None:
    """Says that a folder or file that was there has disappeared, or None."""
    try:
        if not path.is_dir() and path.exists():
            return None
        with os.scandir(path) as entries:
            if any(True for _ in entries):
                return None
    except OSError:
        pass
    return f"the data folder {path} disappeared. Bring it back and go on with --resume"


def visible_folders(root: Path) -> list[str]:
    """Names of the folders in `root` that are not hidden, in timm's order. Raises InputError."""
    from timm.utils.misc import natural_key

    try:
        names = [path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{root}: expected a folder with pictures: {error.strerror}") from error
    return sorted(names, key=natural_key)


def _class_folders(root: Path) -> tuple[str, ...]:
    names = visible_folders(root)
    if len(names) < 2:
        raise InputError(
            f"{root}: expected one sub-folder per class, at least 2, found {len(names)}"
            f"{f' ({names[0]})' if names else ''}. Put the pictures of each class into a folder of their own"
        )
    stray = sorted(path.name for path in root.iterdir() if _is_picture(path))
    if stray:
        raise InputError(
            f"{root}: expected pictures in class folders only, found {len(stray)} beside them ({stray[0]}). "
            f"Move them into a class folder or away"
        )
    return tuple(names)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _pictures_of(folder: Path) -> list[Path]:
    try:
        return find_images(folder)
    except ImageError as error:
        raise InputError(
            f"the class folder {folder} is empty: expected pictures ({' '.join(SUFFIXES)}). "
            f"Add some, or remove the folder and train with fewer classes"
        ) from error
