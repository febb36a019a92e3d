"""Top-1 and top-5 on a folder of labelled pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tofe_export.preprocess import Preprocessing
from tofe_export.runtime.session import Session, TensorInfo
from tofe_export.verify.accuracy import Accuracy, accuracy, labelled_images

PRE = Preprocessing((8, 8), 1.0, "center", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CLASSES = ("red", "green", "blue", "x", "y", "z", "none")


class Brightest(Session):
    """A fake classifier: the class of the brightest channel; the last class never wins."""

    def __init__(self, batch: int | str) -> None:
        shape = (batch, 3, 8, 8)
        self.inputs = {"images": TensorInfo("images", np.dtype("float32"), shape)}
        self.outputs, self.provider = {}, "fake"

    def _run(self, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        means = feeds["images"].mean((2, 3))
        rest = np.tile(np.array([-1, -2, -3, -4], np.float32), (len(means), 1))
        return {"logits": np.concatenate([means, rest], axis=1)}

    def close(self) -> None:
        return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    colours = {"red/1": (255, 0, 0), "red/2": (0, 0, 255), "green/1": (0, 255, 0), "none/1": (9, 9, 9)}
    for name, colour in {**colours, "other/1": (1, 2, 3)}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 8), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def test_only_class_names_count(folder: Path) -> None:
    found = [(path.relative_to(folder).as_posix(), label) for path, label in labelled_images(folder, CLASSES)]
    assert found == [("green/1.png", 1), ("none/1.png", 6), ("red/1.png", 0), ("red/2.png", 0)]
    assert len(labelled_images(folder, CLASSES, 2)) == 2
    assert labelled_images(folder, ("nothing",), 2) == []


@pytest.mark.parametrize("batch", [1, 3, "batch"])
def test_top1_and_top5(folder: Path, batch: int | str) -> None:
    told: list[str] = []
    seen = accuracy(Brightest(batch), labelled_images(folder, CLASSES), PRE, told.append)
    assert seen == Accuracy(images=4, top1=0.5, top5=0.75)
    assert told == ["4 of 4 labelled images"]


def test_no_images_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="found none"):
        accuracy(Brightest(1), [], PRE)
