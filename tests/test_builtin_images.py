"""The built-in pictures are fixed, different, and natural in their spectrum."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from tofe_export.builtin_images import builtin_images


def test_shapes_and_variety() -> None:
    images = builtin_images()
    assert len(images) == 8
    assert len({image.shape for image in images}) == 8
    assert all(image.dtype == np.uint8 and min(image.shape[:2]) == 256 for image in images)
    means = np.array([image.mean(axis=(0, 1)) for image in images])
    distances = np.linalg.norm(means[:, None] - means[None], axis=-1)
    assert distances[np.triu_indices(8, 1)].min() > 10
    assert all(image.std() > 30 for image in images)


def test_the_bytes_never_change() -> None:
    digest = hashlib.sha256(b"".join(image.tobytes() for image in builtin_images(3, 64))).hexdigest()
    assert digest == "73934227f774c2a9e60b7ef706810538b7f82da841aacd888a9c55690e7a923a"


def test_a_longer_set_begins_with_the_shorter() -> None:
    for short, long in zip(builtin_images(2, 32), builtin_images(10, 32), strict=False):
        np.testing.assert_array_equal(short, long)
    images = builtin_images(17, 32)
    assert len({image.tobytes() for image in images}) == 17


def test_the_spectrum_falls_like_a_photographs() -> None:
    window = np.outer(np.hanning(256), np.hanning(256))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    for image in builtin_images():
        grey = image[:256, :256].mean(axis=2)
        amplitude = np.abs(np.fft.fft2((grey - grey.mean()) * window))
        bands = [
            amplitude[(frequency > f) & (frequency <= 2 * f)].mean() for f in 2.0 ** -np.arange(7, 1, -1)
        ]
        slope = np.polyfit(np.arange(6), np.log2(bands), 1)[0]
        assert -2.2 < slope < -0.8


@pytest.mark.parametrize(("count", "size"), [(0, 256), (8, 0), (-1, 8)])
def test_refuses_nothing(count: int, size: int) -> None:
    with pytest.raises(ValueError, match="expected a positive count and size"):
        builtin_images(count, size)


def test_tiny_sizes_work() -> None:
    assert [image.shape for image in builtin_images(2, 1)] == [(1, 1, 3), (1, 1, 3)]
