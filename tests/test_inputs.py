"""What graphs are fed with: images or frames, of the same pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError
from tofe_export.inputs import as_fed, prepare
from tofe_export.preprocess import apply, frame


def test_a_picture_as_the_graph_takes_it(bundle: Bundle) -> None:
    picture, pre = Image.new("RGB", (12, 10), (200, 10, 60)), bundle.manifest.preprocessing
    np.testing.assert_array_equal(prepare(picture, pre, frames=False), apply(picture, pre))
    frames = prepare(picture, pre, frames=True)
    np.testing.assert_array_equal(frames, frame(picture, pre))
    assert frames.shape == (8, 8, 3)
    assert frames.dtype == np.uint8


def test_reference_images_as_the_graph_takes_them(bundle: Bundle) -> None:
    manifest, pre = bundle.manifest, bundle.manifest.preprocessing
    pictures = [np.full((9, 9, 3), (value, 1, 254), np.uint8) for value in (0, 77, 255)]
    images = np.stack([apply(picture, pre) for picture in pictures])
    assert as_fed(images, manifest.model, pre) is images
    frames = as_fed(images, replace(manifest.model, input="uint8"), pre)
    np.testing.assert_array_equal(frames, np.stack([frame(picture, pre) for picture in pictures]))


def test_a_reference_that_no_frame_gives(bundle: Bundle) -> None:
    model, pre = replace(bundle.manifest.model, input="uint8"), bundle.manifest.preprocessing
    with pytest.raises(BundleError, match=r"the reference's images: expected .* grey levels.*Export again"):
        as_fed(np.full((1, 3, 8, 8), 0.1, np.float32), model, pre)
