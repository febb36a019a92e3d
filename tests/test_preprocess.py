"""Preprocessing: its arithmetic, and every way in which a picture file can be bad."""

from __future__ import annotations

import contextlib
import math
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tofe_export.errors import ImageError
from tofe_export.preprocess import (
    Pixels,
    Preprocessing,
    apply,
    frame,
    frames_of,
    load_image,
    source_pixels,
)

DEIT = Preprocessing((224, 224), 0.875, "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def pixels(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes) -> bytes:
    """An 8-bit RGB PNG that claims this size, whatever its content."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def test_json_round_trip() -> None:
    assert Preprocessing.from_json(DEIT.to_json()) == DEIT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [224]}, "preprocessing.size: expected [height, width], found [224]"),
        ({"size": [0, 224]}, "preprocessing.size: expected [height, width], found [0, 224]"),
        ({"crop": 0}, "expected a share in (0, 1], found 0"),
        ({"crop": 1.1}, "expected a share in (0, 1], found 1.1"),
        ({"crop": math.nan}, "preprocessing.crop: expected a finite number, found nan"),
        ({"crop_mode": "border"}, "expected one of center, squash, found 'border'"),
        ({"interpolation": "random"}, "preprocessing.interpolation: expected one of nearest"),
        ({"mean": [0.5, 0.5]}, "expected 3 means and 3 positive stds"),
        ({"std": [0.5, 0.5, 0]}, "expected 3 means and 3 positive stds"),
        ({"stray": 1}, "preprocessing: unknown key 'stray'"),
    ],
)
def test_json_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Preprocessing.from_json(DEIT.to_json() | change)


def test_arithmetic_by_hand() -> None:
    pre = Preprocessing((2, 2), 1.0, "center", "bilinear", (0.0, 0.5, 1.0), (1.0, 0.5, 0.25))
    image = np.full((2, 4, 3), (255, 0, 51), np.uint8)
    expected = np.array([1.0, -1.0, -3.2], np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    np.testing.assert_allclose(apply(image, pre), expected, rtol=1e-6)


def test_result_is_contiguous_float32_and_the_source_unchanged() -> None:
    image = pixels(100, 80)
    before = image.copy()
    result = apply(image, DEIT)
    assert result.shape == (3, 224, 224)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(image, before)


def test_a_frame_is_what_apply_normalises() -> None:
    image = pixels(300, 260)
    found = frame(image, DEIT)
    assert found.shape == (224, 224, 3)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    normal = (found / 255 - np.array(DEIT.mean)) / np.array(DEIT.std)
    np.testing.assert_allclose(apply(image, DEIT), normal.transpose(2, 0, 1), atol=1e-6)


def test_frames_come_back_exactly_from_normalised_images() -> None:
    pre = replace(DEIT, size=(16, 16), crop=1.0)
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)  # every level there is
    np.testing.assert_array_equal(frames_of(apply(levels, pre)[None], pre), levels[None])


@pytest.mark.parametrize(
    "change",
    [
        lambda images: images + 0.3 / 255 / 0.225,  # between two levels
        lambda images: images + np.float32(200 / 255 / 0.225),  # beyond 255
        lambda images: np.where(images > 1, np.float32(np.nan), images),
        lambda images: images / 2,
    ],
)
def test_images_that_no_frame_gives_are_refused(change: Callable[..., Any]) -> None:
    images = apply(pixels(300, 260), DEIT)[None]
    with pytest.raises(ImageError, match="expected images made of whole grey levels"):
        frames_of(change(images).astype(np.float32), DEIT)


def test_arrays_and_pictures_give_the_same() -> None:
    image = Image.fromarray(pixels(60, 90))
    np.testing.assert_array_equal(apply(image, DEIT), apply(source_pixels(image), DEIT))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 4), (0, 4, 3)])
def test_refuses_other_arrays(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"expected an uint8 array \(h, w, 3\), found uint8"):
        apply(np.zeros(shape, np.uint8), DEIT)
    with pytest.raises(ImageError, match="found float32"):
        apply(np.zeros((4, 4, 3), np.float32), DEIT)


def test_refuses_an_aspect_ratio_that_would_fill_the_memory() -> None:
    with pytest.raises(ImageError, match="60000 x 1, which resizes to 15360000 x 256"):
        apply(np.zeros((1, 60_000, 3), np.uint8), DEIT)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif", "ppm"])
def test_load_image_reads_the_formats(tmp_path: Path, suffix: str) -> None:
    Image.new("RGB", (7, 5), (250, 0, 0)).save(tmp_path / f"i.{suffix}")
    image = load_image(tmp_path / f"i.{suffix}")
    assert (image.mode, image.size) == ("RGB", (7, 5))
    assert np.abs(np.asarray(image).astype(int) - (250, 0, 0)).max() <= 8


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 100, (100, 100, 100)),
        ("LA", (100, 3), (100, 100, 100)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("1", 1, (255, 255, 255)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 0x6400, (100, 100, 100)),
        ("I;16", 0xFFFF, (255, 255, 255)),
    ],
)
def test_modes_become_rgb(
    tmp_path: Path, mode: str, colour: float | tuple[int, ...], expected: tuple[int, ...]
) -> None:
    path = tmp_path / ("i.tif" if mode == "CMYK" else "i.png")
    Image.new(mode, (4, 4), colour).save(path)
    np.testing.assert_array_equal(source_pixels(load_image(path)), np.full((4, 4, 3), expected, np.uint8))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "i.jpg")
    assert np.abs(source_pixels(load_image(tmp_path / "i.jpg")).astype(int) - (255, 0, 0)).max() <= 4


def test_palettes_with_transparency_do_not_warn(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.save(tmp_path / "i.png", transparency=b"\x00\x80")
    assert source_pixels(load_image(tmp_path / "i.png"))[0, 0].tolist() == [9, 8, 7]


def test_refuses_pictures_of_32_bits(tmp_path: Path) -> None:
    for mode in ("F", "I"):
        Image.new(mode, (4, 4)).save(tmp_path / "i.tif")
        with pytest.raises(ImageError, match="expected 8 or 16 bits a channel, found 32"):
            load_image(tmp_path / "i.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = 255  # the corner that must stay at the top left
    turns: dict[int, Callable[[Pixels], Pixels]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(turns[orientation](upright))).save(tmp_path / "i.png", exif=exif)
    np.testing.assert_array_equal(source_pixels(load_image(tmp_path / "i.png")), upright)


def test_refuses_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "i.jpg").write_text("not a picture")
    with pytest.raises(ImageError, match="expected a picture") as caught:
        load_image(tmp_path / "i.jpg")
    assert caught.value.exit_code == 3
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ImageError, match="expected a picture"):
        load_image(tmp_path / "empty.png")
    with pytest.raises(ImageError, match="no such file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        load_image(tmp_path)


def test_other_formats_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "i.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    with pytest.raises(ImageError, match="expected a picture"):
        load_image(tmp_path / "i.jpg")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "tif", "bmp", "ppm"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"i.{suffix}"
    Image.fromarray(pixels(64, 64)).save(path)
    data = path.read_bytes()
    for share in (0.02, 0.3, 0.6):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ImageError, match=str(path)):
            load_image(path)


@pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (100_000, 100_000), (20_000, 20_000)])
def test_oversized_pictures_are_refused_from_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "i.png").write_bytes(png(*size, b"no such rows"))
    with pytest.raises(ImageError, match="expected at most 65535 pixels a side and 179 megapixels"):
        load_image(tmp_path / "i.png")


def test_a_large_picture_within_the_limits_does_not_warn(tmp_path: Path) -> None:
    (tmp_path / "i.png").write_bytes(png(10_000, 10_000, b"no such rows"))  # Pillow alone would warn
    with pytest.raises(ImageError, match="cannot be read"):  # warnings are errors in our tests
        load_image(tmp_path / "i.png")


def test_damage_is_an_image_error_or_not_noticed(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for suffix in ("jpg", "png", "webp", "gif", "tif", "bmp", "ppm"):
        path = tmp_path / f"i.{suffix}"
        Image.fromarray(pixels(64, 64)).save(path)
        good = path.read_bytes()
        for _ in range(30):
            data = bytearray(good)
            for place in random.randint(0, len(data), 20):
                data[place] = random.randint(256)
            path.write_bytes(data)
            with contextlib.suppress(ImageError):  # some damage is not detectable, any other error is a bug
                assert load_image(path).mode == "RGB"
