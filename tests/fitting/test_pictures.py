"""Pictures to fit on, and pictures to judge on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tofe_export.calibration.images import select
from tofe_export.calibration.stream import ImageStream
from tofe_export.errors import ImageError
from tofe_export.fitting.pictures import parts
from tofe_export.preprocess import Preprocessing

PRE = Preprocessing((8, 8), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def stream(folder: Path, classes: dict[str, int]) -> ImageStream:
    for name, count in classes.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((9, 9, 3), (number * 3) % 256, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
    return ImageStream(select(folder), PRE, 8).check()


def test_parts_are_disjoint_and_mix_what_the_folder_sorts(tmp_path: Path) -> None:
    whole = stream(tmp_path, {"a": 20, "b": 20})
    fitted, held_out = parts(whole, 0)
    assert (fitted.count, held_out.count) == (30, 10)
    assert set(fitted.selection.names) | set(held_out.selection.names) == set(whole.selection.names)
    assert not set(fitted.selection.names) & set(held_out.selection.names)
    for part in (fitted, held_out):
        firsts = [name[0] for name in part.selection.names[:8]]
        assert {"a", "b"} == set(firsts)
        assert sum(len(batch) for batch in part) == part.count
    assert parts(whole, 0).fitted.selection.names == fitted.selection.names
    assert parts(whole, 1).fitted.selection.names != fitted.selection.names


def test_too_few_pictures_and_unreadable_ones(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="at least 32 readable pictures to fit on, found 31"):
        parts(stream(tmp_path / "few", {"a": 31}), 0)
    damaged = stream(tmp_path / "damaged", {"a": 40})
    (tmp_path / "damaged" / "a" / "003.png").write_bytes(b"no picture")
    damaged = ImageStream(select(tmp_path / "damaged"), PRE, 8).check()
    names = [name for part in parts(damaged, 0) for name in part.selection.names]
    assert len(names) == 39
    assert "a/003.png" not in names
