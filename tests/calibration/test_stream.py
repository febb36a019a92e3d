"""Streams of pictures: the same batches in every pass, bad pictures named, nothing kept in memory."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tofe_export.calibration.images import select
from tofe_export.calibration.stream import ImageStream
from tofe_export.errors import ImageError
from tofe_export.preprocess import Preprocessing, apply, frame, load_image

PRE = Preprocessing((16, 16), 0.9, "center", "bicubic", (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
Write = Callable[..., Path]


def damage(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"\x89PNG nothing more")


def test_batches_are_the_prepared_pictures_in_order(tmp_path: Path, write_pictures: Write) -> None:
    stream = ImageStream(select(write_pictures(tmp_path / "p", 7)), PRE, batch=3)
    batches = list(stream)
    assert [batch.shape for batch in batches] == [(3, 3, 16, 16), (3, 3, 16, 16), (1, 3, 16, 16)]
    assert batches[0].dtype == np.float32
    expected = np.stack([apply(load_image(path), PRE) for path in stream.selection.paths()])
    np.testing.assert_array_equal(np.concatenate(batches), expected)
    np.testing.assert_array_equal(np.concatenate(list(stream)), expected)  # again
    assert (stream.count, stream.complete) == (7, True)


def test_frames_are_for_graphs_that_normalise(tmp_path: Path, write_pictures: Write) -> None:
    stream = ImageStream(select(write_pictures(tmp_path / "p", 2)), PRE, batch=8, frames=True)
    (batch,) = stream
    assert batch.shape == (2, 16, 16, 3)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[1], frame(load_image(tmp_path / "p/001.png"), PRE))


def test_pictures_are_read_when_they_are_asked_for(
    tmp_path: Path, write_pictures: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def spy(path: Path) -> Image.Image:
        read.append(path.name)
        return load_image(path)

    monkeypatch.setattr("tofe_export.calibration.stream.load_image", spy)
    batches = iter(ImageStream(select(write_pictures(tmp_path / "p", 9)), PRE, batch=2))
    assert read == []
    next(batches)
    assert read == ["000.png", "001.png"]


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path, write_pictures: Write) -> None:
    few, many = (write_pictures(tmp_path / str(count), count) for count in (20, 200))

    def peak(folder: Path) -> int:
        stream = ImageStream(select(folder), PRE, batch=10)
        tracemalloc.start()
        stream.check()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(few)  # what is imported once
    picture = 3 * 16 * 16 * 4
    assert abs(peak(many) - peak(few)) < 10 * picture  # less than a batch, for 180 pictures more


def test_an_unreadable_picture_is_named_and_left_out_of_every_pass(
    tmp_path: Path, write_pictures: Write
) -> None:
    folder = write_pictures(tmp_path / "p", 6)
    damage(folder, "002.png")
    stream = ImageStream(select(folder), PRE, batch=4)
    assert [len(batch) for batch in stream] == [4, 1]
    assert [len(batch) for batch in stream] == [4, 1]
    assert list(stream.unreadable) == ["002.png"]
    facts = stream.facts()
    assert (facts.count, facts.found, facts.unreadable) == (5, 6, ("002.png",))
    assert facts.folder == "p"
    assert facts.sha256 == select(folder).sha256()
    assert facts.to_json()["unreadable"] == ["002.png"]
    (folder / "001.png").unlink()
    assert stream.facts() == facts  # what was read, not what is there now


@pytest.mark.parametrize(("share", "allowed"), [(0.0, 0), (0.01, 1), (0.5, 4)])
def test_more_unreadable_pictures_than_allowed_are_refused(
    tmp_path: Path, write_pictures: Write, share: float, allowed: int
) -> None:
    folder = write_pictures(tmp_path / "p", 8)
    bad = [f"{index:03}.png" for index in range(allowed + 1)]
    damage(folder, *bad)
    stream = ImageStream(select(folder), PRE, max_corrupt=share)
    with pytest.raises(ImageError, match=f"at most {allowed} of 8 pictures") as caught:
        stream.check()
    assert all(name in str(caught.value) for name in bad)
    assert "--max-corrupt" in str(caught.value)
    write_pictures(folder, 1)  # repairs 000.png
    assert ImageStream(select(folder), PRE, max_corrupt=share).check().count == 8 - allowed


def test_no_readable_picture_at_all_is_refused(tmp_path: Path, write_pictures: Write) -> None:
    folder = write_pictures(tmp_path / "p", 2)
    damage(folder, "000.png", "001.png")
    with pytest.raises(ImageError, match=r"no picture can be read. They are 000\.png, 001\.png; the first"):
        ImageStream(select(folder), PRE, max_corrupt=1.0).check()


def test_a_picture_that_breaks_between_two_passes_ends_it(tmp_path: Path, write_pictures: Write) -> None:
    folder = write_pictures(tmp_path / "p", 4)
    stream = ImageStream(select(folder), PRE).check()
    (folder / "003.png").unlink()
    with pytest.raises(ImageError, match="It could be read before"):
        stream.check()


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_pictures_of_any_channel_count_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    if mode == "I;16":
        picture = Image.fromarray(np.full((20, 20), 40_000, np.uint16))
    else:
        picture = Image.new("RGB", (20, 20), (10, 200, 30)).convert(mode)
    picture.save(tmp_path / f"a.{suffix}")
    (batch,) = ImageStream(select(tmp_path), PRE)
    assert batch.shape == (1, 3, 16, 16)


def test_a_picture_with_five_channels_is_unreadable(tmp_path: Path, write_pictures: Write) -> None:
    write_pictures(tmp_path, 3)
    header = b"P7\nWIDTH 4\nHEIGHT 4\nDEPTH 5\nMAXVAL 255\nTUPLTYPE FIVE\nENDHDR\n"
    (tmp_path / "five.ppm").write_bytes(header + bytes(80))
    stream = ImageStream(select(tmp_path), PRE).check()
    assert list(stream.unreadable) == ["five.ppm"]
    assert stream.count == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_without_permission_is_unreadable(tmp_path: Path, write_pictures: Write) -> None:
    write_pictures(tmp_path, 3)
    (tmp_path / "001.png").chmod(0)
    assert list(ImageStream(select(tmp_path), PRE).check().unreadable) == ["001.png"]


def test_parts_are_of_what_can_be_read(tmp_path: Path, write_pictures: Write) -> None:
    folder = write_pictures(tmp_path / "p", 7)
    damage(folder, "001.png")
    stream = ImageStream(select(folder), PRE, batch=2)
    with pytest.raises(ValueError, match="complete pass"):
        stream.part(0, 2)
    with pytest.raises(ValueError, match="complete pass"):
        stream.facts()
    stream.check()
    assert stream.part(0, 2).selection.names == ("000.png", "003.png", "005.png")
    assert stream.part(1, 2).selection.names == ("002.png", "004.png", "006.png")
    part = stream.part(1, 2)
    (folder / "004.png").unlink()
    with pytest.raises(ImageError, match="It could be read before"):
        part.check()
    with pytest.raises(ValueError, match="at least 1 picture, found 0"):
        ImageStream(select(folder), PRE, batch=0)
