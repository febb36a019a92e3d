"""Pictures in tar files: classes, several processes, damage."""

from __future__ import annotations

import gc
import os
import pickle
import re
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tofe_export.errors import ImageError, InputError
from tofe_export.preprocess import Preprocessing
from tofe_export.training.archives import TarPictures
from tofe_export.training.loading import in_order
from tofe_export.training.samples import PictureSamples
from tofe_export.training.transforms import EvaluationTransform

PLAIN = Preprocessing((2, 2), 1.0, "squash", "nearest", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))


def png(grey: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (2, 2), (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return path


@pytest.fixture
def tars(tmp_path: Path) -> Iterator[Path]:
    """Two tar files of three pictures each; a picture's grey value is 10 * class + number."""
    for number, name in enumerate(["cat", "dog"]):
        write_tar(tmp_path / f"{name}.tar", {f"{i}.png": png(10 * number + i) for i in range(3)})
    yield tmp_path
    gc.collect()  # a tar file left open would fail here, not in a later test


def grey(pictures: TarPictures, place: int) -> int:
    return int(np.asarray(pictures.load(place))[0, 0, 0])


def test_one_tar_file_per_class(tars: Path) -> None:
    found = TarPictures(tars)
    assert found.classes == ("cat", "dog")
    assert [grey(found, place) for place in range(6)] == [0, 1, 2, 10, 11, 12]
    assert found.targets == [0, 0, 0, 1, 1, 1]
    assert found.name(0) == f"{tars}/cat.tar:0.png"
    assert found.key(0) == "cat.tar:0.png"
    assert found.size(0) == len(png(0))
    assert found.gone() is None
    found.close()


def test_folders_inside_of_one_tar_file(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "all.tar", {"x/b/0.png": png(1), "x/a/1.png": png(0), "x/notes.txt": b"no"})
    found = TarPictures(path)
    assert found.classes == ("a", "b")
    assert [grey(found, place) for place in range(2)] == found.targets == [0, 1]
    assert found.name(1) == f"{path}:x/b/0.png"
    assert found.key(1) == "all.tar:x/b/0.png"
    found.close()


def test_processes_do_not_share_file_positions(tars: Path) -> None:
    pictures = TarPictures(tars)
    expected = [float(grey(pictures, place)) for place in range(6)]  # the parent has the files open
    data = PictureSamples(pictures, range(6), EvaluationTransform(PLAIN), (2, 2), 0, (1, 1))
    for _ in range(3):
        batches = list(in_order(data, batch_size=1, workers=2))
        assert [round(float(batch.images[0, 0, 0, 0])) for batch in batches] == expected
        assert [int(batch.indices) for batch in batches] == list(range(6))
    pictures.close()


def test_it_travels_with_its_files_closed(tars: Path) -> None:
    found = TarPictures(tars)
    before = grey(found, 4)
    copy = pickle.loads(pickle.dumps(found))
    assert grey(copy, 4) == grey(found, 4) == before
    copy.close()
    found.close()


def test_a_tar_file_cut_short_gives_unreadable_pictures(tars: Path) -> None:
    found = TarPictures(tars)
    os.truncate(tars / "dog.tar", 100)
    with pytest.raises(ImageError, match=re.escape("dog.tar:0.png")):
        found.load(found.targets.index(1))
    assert grey(found, 0) == 0
    (tars / "dog.tar").unlink()
    found.close()
    with pytest.raises(ImageError, match="cannot be read from the tar file"):
        found.load(found.targets.index(1))
    assert found.gone() is None
    found.close()


def test_tar_files_that_disappear(tars: Path) -> None:
    found = TarPictures(tars)
    for path in tars.glob("*.tar"):
        path.unlink()
    with pytest.raises(ImageError, match="cannot be read from the tar file"):
        found.load(0)
    assert found.gone() == f"the data folder {tars} disappeared. Bring it back and go on with --resume"


def test_a_damaged_tar_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(InputError, match=r"expected tar files with \.png or \.jpg pictures"):
        TarPictures(tmp_path)


def test_a_tar_file_without_pictures_is_named(tars: Path) -> None:
    write_tar(tars / "owl.tar", {"notes.txt": b"nothing"})
    with pytest.raises(InputError, match=re.escape(f"{tars / 'owl.tar'}: expected pictures")):
        TarPictures(tars)


def test_one_class_is_not_enough(tmp_path: Path) -> None:
    write_tar(tmp_path / "only.tar", {"0.png": png(0)})
    with pytest.raises(InputError, match=re.escape("at least 2 classes, found ['only']")):
        TarPictures(tmp_path)
