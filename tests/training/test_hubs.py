"""`hfds/NAME` and `torch/NAME`: the latter with a small MNIST, the former as far as the package is there."""

from __future__ import annotations

import gzip
import importlib.util
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tofe_export.errors import InputError, MissingBackend
from tofe_export.training.hubs import TorchPictures, checked
from tofe_export.training.sources import open_source

HAS_DATASETS = importlib.util.find_spec("datasets") is not None
CLASSES = 10


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """A folder with MNIST's files for 12 training and 5 test images."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 12), ("t10k", 5)):
        images = np.full((count, 28, 28), 0, np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None]
        targets = (np.arange(count) % CLASSES).astype(np.uint8)
        header = struct.pack(">IIII", 2051, count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + targets.tobytes())
        for kind in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(b"unused"))
    return tmp_path


def test_torchvision_s_data_by_timm_s_name(mnist: Path) -> None:
    train, held_out = open_source(f"torch/mnist:{mnist}")
    assert train is not None
    assert held_out is not None
    assert (len(train), len(held_out)) == (12, 5)
    assert len(train.classes) == CLASSES
    assert train.classes[3] == "3 - three"
    assert [train.target(place) for place in (0, 9, 11)] == [0, 9, 1]
    picture = train.load(7)
    assert (picture.mode, picture.size) == ("RGB", (28, 28))
    assert int(np.asarray(picture)[0, 0, 0]) == 7
    assert held_out.name(4) == f"torch/mnist:{mnist} validation 4"


@pytest.mark.parametrize("name", ["mnist", "no-such-data"])
def test_torchvision_s_data_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"the split 'train' cannot be opened in the folder '{tmp_path}'"):
        TorchPictures(f"torch/{name}:{tmp_path}", "train")


def test_torchvision_s_own_image_folder(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (2, 2)).save(tmp_path / part / name / "0.png")
    pictures = TorchPictures(f"torch/folder:{tmp_path}", "train")
    assert pictures.classes == ("a", "b")
    assert pictures.targets == [0, 1]


@pytest.mark.parametrize(
    ("classes", "targets", "message"),
    [
        (("a", "b"), [0, 2], "expected labels 0 to 1, found 0 to 2"),
        (("a", "b"), [0, -1], "expected labels 0 to 1, found -1 to 0"),
        (("a", "b"), [], "expected labels 0 to 1, found no pictures"),
        (("a", "b"), [[0, 1]], "expected one class for each picture"),
        (("a",), [0], "at least 2 class names"),
    ],
)
def test_labels_are_checked(classes: tuple[str, ...], targets: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=f"source: .*{message}"):
        checked("source", classes, targets)


@pytest.mark.skipif(HAS_DATASETS, reason="the package datasets is installed")
def test_hugging_face_data_without_the_package() -> None:
    with pytest.raises(
        MissingBackend, match=r"hfds/x needs the package `datasets`.*pip install datasets"
    ) as caught:
        open_source("hfds/x")
    assert caught.value.exit_code == 5


@pytest.mark.skipif(not HAS_DATASETS, reason="the package datasets is not installed")
def test_hugging_face_data_in_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for part, count in (("train", 3), ("validation", 2)):
        for grey, name in ((10, "cat"), (20, "dog")):
            folder = tmp_path / "set" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (2, 2), (grey + number, 0, 0)).save(folder / f"{number}.png")
    train, held_out = open_source(f"hfds/{tmp_path / 'set'}")
    assert train is not None
    assert held_out is not None
    assert train.classes == held_out.classes == ("cat", "dog")
    assert sorted(train.targets) == [0, 0, 0, 1, 1, 1]
    assert len(held_out) == 4
    for place in range(6):
        assert int(np.asarray(train.load(place))[0, 0, 0]) // 10 - 1 == train.target(place)
    assert train.name(2) == f"hfds/{tmp_path / 'set'} train 2"
    with pytest.raises(InputError, match="cannot be opened"):
        open_source(f"hfds/{tmp_path / 'nowhere'}")
