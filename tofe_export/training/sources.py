"""What `--data` may name, and which of its pictures are for training and which for validation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tofe_export.errors import InputError
from tofe_export.training.archives import TarPictures
from tofe_export.training.hubs import HUB, TORCH, HubPictures, TorchPictures, hub_splits
from tofe_export.training.pictures import FolderPictures, Pictures, visible_folders

TRAIN = ("train", "training")
HELD_OUT = ("val", "validation", "valid", "eval", "test")


class Source(NamedTuple):
    """The parts of a data set that came with it."""

    train: Pictures | None
    """Pictures for training; all where the source has no parts; None where only validation is there."""
    held_out: Pictures | None
    """The validation part, or None."""


def open_source(source: str) -> Source:
    """Open a folder, tar files, `hfds/NAME` or `torch/NAME:FOLDER`.

    A folder holds train/ (or training/, train.tar) and val/ (validation/, valid/, eval/, test/, val.tar), or
    only class folders or tar files. Raises InputError, MissingBackend.
    """
    if source.startswith(HUB):
        splits = hub_splits(source)
        return _checked(source, *(_hub(source, splits, names) for names in (TRAIN, HELD_OUT)))
    if source.startswith(TORCH):
        return _checked(source, TorchPictures(source, "train"), TorchPictures(source, "validation"))
    root = Path(source)
    if not root.exists():
        raise InputError(f"{root}: expected a folder with pictures (--data), found no such folder")
    train, held_out = _part(root, TRAIN), _part(root, HELD_OUT)
    if train is None and not _only_parts(root):
        return Source(_open(root), None)
    return _checked(source, *(None if part is None else _open(part) for part in (train, held_out)))


def _open(path: Path) -> Pictures:
    if path.is_file() and path.suffix != ".tar":
        raise InputError(f"{path}: expected a folder with pictures or a .tar file, found another file")
    if path.is_file() or (not visible_folders(path) and any(path.glob("*.tar"))):
        return TarPictures(path)
    return FolderPictures(path)


def _part(root: Path, names: tuple[str, ...]) -> Path | None:
    """The folder or .tar file of that name, if there is one."""
    paths = [root / (name + suffix) for name in names for suffix in ("", ".tar")]
    return next((path for path in paths if path.exists()), None)


def _only_parts(root: Path) -> bool:
    """Whether all that a folder holds is parts: a class may be called "test", too."""
    names = set(visible_folders(root)) if root.is_dir() else set()
    names |= {path.stem for path in root.glob("*.tar")}
    return bool(names) and names <= {*TRAIN, *HELD_OUT}


def _hub(source: str, splits: list[str], names: tuple[str, ...]) -> Pictures | None:
    found = [name for name in names if name in splits]
    return HubPictures(source, found[0]) if found else None


def _checked(name: str, train: Pictures | None, held_out: Pictures | None) -> Source:
    """Raises InputError where training and validation have different classes."""
    if train is not None and held_out is not None and train.classes != held_out.classes:
        only = [sorted(set(a.classes) - set(b.classes)) for a, b in ((train, held_out), (held_out, train))]
        raise InputError(
            f"{name}: expected the same classes for training and validation, found "
            f"{_some(only[0])} only in training and {_some(only[1])} only in validation"
        )
    return Source(train, held_out)


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
