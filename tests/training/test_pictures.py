"""Folders of pictures: class order, what is skipped, what is refused, and a folder that disappears."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tofe_export.errors import ImageError, InputError
from tofe_export.training.pictures import FolderPictures


def write(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (grey, 0, 0)).save(path)


def folder(root: Path, names: Iterable[str]) -> Path:
    for grey, name in enumerate(names):
        write(root / name, grey)
    return root


def test_classes_are_in_timm_s_order(tmp_path: Path) -> None:
    from timm.data import ImageDataset

    root = folder(tmp_path, ["class10/a.png", "class2/b.png", "Bird/c.png", "ant/d.jpeg", "ant/e.png"])
    found = FolderPictures(root)
    assert found.classes == ("ant", "Bird", "class2", "class10")
    theirs = ImageDataset(str(root))
    assert {name: place for place, name in enumerate(found.classes)} == theirs.reader.class_to_idx
    mine = {(found.key(place), found.target(place)) for place in range(len(found))}
    labels = [target for _, target in theirs.reader.samples]
    assert mine == set(zip(theirs.filenames(), labels, strict=True))


def test_pictures_are_loaded_and_named(tmp_path: Path) -> None:
    found = FolderPictures(folder(tmp_path, ["a/0.png", "b/deep/1.webp", "b/2.png"]))
    assert len(found) == 3
    assert found.targets == [0, 1, 1]
    names = [found.key(place) for place in range(3)]
    assert names == ["a/0.png", "b/2.png", "b/deep/1.webp"]
    assert found.name(2) == str(tmp_path / "b" / "deep" / "1.webp")
    assert int(np.asarray(found.load(1))[0, 0, 0]) == 2
    assert found.size(0) == (tmp_path / "a" / "0.png").stat().st_size
    assert pickle.loads(pickle.dumps(found)).key(2) == found.key(2)


def test_hidden_files_and_folders_are_skipped(tmp_path: Path) -> None:
    names = ["a/0.png", "b/1.png", ".cache/2.png", "b/.ipynb_checkpoints/3.png", "b/.4.png", ".5.png"]
    root = folder(tmp_path, names)
    (root / "notes.txt").write_text("not a picture")
    found = FolderPictures(root)
    assert found.classes == ("a", "b")
    assert [found.key(place) for place in range(len(found))] == ["a/0.png", "b/1.png"]


def test_an_empty_class_folder_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path, ["a/0.png", "b/1.png"])
    (root / "empty").mkdir()
    (root / "empty" / "readme.txt").write_text("no picture")
    with pytest.raises(InputError, match=re.escape(f"the class folder {root / 'empty'} is empty")):
        FolderPictures(root)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/0.png"], "one sub-folder per class, at least 2, found 1 (a)"),
        (["0.png"], "one sub-folder per class, at least 2, found 0."),
        (["a/0.png", "b/1.png", "stray.png"], "in class folders only, found 1 beside them (stray.png)"),
    ],
)
def test_other_folders_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        FolderPictures(folder(tmp_path, names))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a folder with pictures: No such file"):
        FolderPictures(tmp_path / "nowhere")


def test_damaged_picture(tmp_path: Path) -> None:
    root = folder(tmp_path, ["a/0.png", "b/1.png"])
    (root / "a" / "0.png").write_bytes(b"not a picture")
    found = FolderPictures(root)
    with pytest.raises(ImageError, match=r"0\.png: expected a picture"):
        found.load(0)
    assert found.gone() is None


def test_a_missing_picture_is_not_a_missing_folder(tmp_path: Path) -> None:
    found = FolderPictures(folder(tmp_path, ["a/0.png", "b/1.png"]))
    (tmp_path / "a" / "0.png").unlink()
    with pytest.raises(ImageError, match="found no such file"):
        found.load(0)
    assert found.size(0) == 0
    assert found.gone() is None


@pytest.mark.parametrize("unmounted", [False, True])
def test_a_folder_that_disappears(tmp_path: Path, unmounted: bool) -> None:
    root = tmp_path / "data"
    found = FolderPictures(folder(root, ["a/0.png", "b/1.png"]))
    shutil.rmtree(root)
    if unmounted:
        root.mkdir()  # what is left of a disk's folder
    assert found.gone() == f"the data folder {root} disappeared. Bring it back and go on with --resume"
