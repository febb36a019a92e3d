"""Stored images against source pixels: what is told apart, and by which name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_export.preprocess import Preprocessing, apply
from tofe_export.reference import Reference
from tofe_export.verify.preprocessing import check_preprocessing, remake
from tofe_export.verify.report import Check

PRE = Preprocessing((48, 48), 0.875, "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def picture(seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Smooth shapes and some noise; every channel its own."""
    random = np.random.RandomState(seed)
    y, x = np.mgrid[0:height, 0:width] / 20.0
    waves = [np.sin(y * a + b) + np.cos(x * c) for a, b, c in random.uniform(0.5, 2, (3, 3))]
    noise = random.uniform(-0.3, 0.3, (height, width, 3))
    return np.clip(127 + 50 * (np.stack(waves, -1) + noise), 0, 255).astype(np.uint8)


SOURCES = [picture(0, 90, 120), picture(1, 150, 100), picture(2, 70, 70)]


def judge(made_with: Preprocessing = PRE, images: npt.NDArray[np.float32] | None = None) -> Check:
    if images is None:
        images = np.stack([apply(source, made_with) for source in SOURCES])
    reference = Reference(images, SOURCES, {})
    return check_preprocessing(reference, PRE, remake(reference, PRE))


def test_images_made_by_the_manifest_pass() -> None:
    check = judge()
    assert check.passed
    assert check.numbers["largest_levels"] == 0.0


def test_one_grey_level_here_and_there_passes() -> None:
    images = np.stack([apply(source, PRE) for source in SOURCES])
    images[:, :, ::8, ::8] += 1 / 255 / 0.2291
    assert judge(images=images).passed
    images[:, :, 1::8, 1::4] += 2 / 255 / 0.229
    assert judge(images=images).numbers["cause"] == "unknown"


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"crop": 0.9}, "crop"),
        ({"crop": 1.0}, "crop"),
        ({"crop_mode": "squash"}, "crop_mode"),
        ({"interpolation": "bilinear"}, "interpolation"),
        ({"mean": (0.5, 0.5, 0.5)}, "mean"),
        ({"mean": (0.481, 0.456, 0.406)}, "mean"),
        ({"std": (0.5, 0.5, 0.5)}, "std"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, "mean+std"),
        ({"crop": 0.95, "mean": (0.5, 0.5, 0.5)}, "crop+mean"),
    ],
)
def test_another_preprocessing_is_named(change: dict[str, Any], cause: str) -> None:
    check = judge(replace(PRE, **change))
    assert not check.passed
    assert check.numbers["cause"] == cause, check.detail
    for key, value in change.items():
        if isinstance(value, (str, float)):
            assert f"{key} {value}, the manifest says" in check.detail


def test_another_channel_order_is_named() -> None:
    """BGR pixels, normalised as if they were RGB: what cv2.imread gives."""
    images = np.stack([apply(np.ascontiguousarray(source[..., ::-1]), PRE) for source in SOURCES])
    check = judge(images=images)
    assert check.numbers["cause"] == "channel-order"
    assert "in the order BGR" in check.detail


def test_other_images_are_unknown() -> None:
    images = np.stack([apply(picture(seed, 90, 90), PRE) for seed in (7, 8, 9)])
    check = judge(images=images)
    assert not check.passed
    assert check.numbers["cause"] == "unknown"


def test_another_size_and_nan_are_named() -> None:
    assert judge(replace(PRE, size=(32, 32))).numbers["cause"] == "size"
    assert judge(images=np.full((3, 3, 48, 48), np.nan, np.float32)).numbers["cause"] == "non-finite"
