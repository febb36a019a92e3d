"""Our preprocessing equals timm's evaluation transform."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tofe_export.preprocess import Preprocessing, apply

pytestmark = pytest.mark.slow  # imports torch, torchvision and timm

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SOURCES = [(256, 256), (224, 224), (500, 375), (375, 500), (333, 1001), (37, 23), (640, 427), (225, 224)]


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("crop", [0.875, 0.9, 1.0])
@pytest.mark.parametrize("size", [(224, 224), (192, 256), (256, 128)])
def test_equals_timm(size: tuple[int, int], crop: float, mode: str, interpolation: str) -> None:
    data = pytest.importorskip("timm.data", exc_type=ImportError)
    mean, std = IMAGENET if mode == "center" else HALF
    theirs = data.create_transform(
        input_size=(3, *size),
        is_training=False,
        interpolation=interpolation,
        mean=mean,
        std=std,
        crop_pct=crop,
        crop_mode=mode,
    )
    pre = Preprocessing(size, crop, mode, interpolation, mean, std)
    for seed, (height, width) in enumerate(SOURCES):
        noise = np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)
        expected = theirs(Image.fromarray(noise)).numpy()
        np.testing.assert_allclose(apply(noise, pre), expected, rtol=0, atol=1e-6)
