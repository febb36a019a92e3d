"""What the graphs of a bundle are fed with: normalised images, or camera frames where they normalise.

A bundle that was exported with `--input uint8` takes frames, uint8 (B, H, W, 3) in the order RGB: the picture
after resize and crop. Its reference holds normalised images all the same, since PyTorch answered to those;
the frames are got back from them, exactly, so that no other version of Pillow comes between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tofe_export.errors import BundleError, ImageError
from tofe_export.manifest import Model
from tofe_export.preprocess import Pixels, Preprocessing, apply, frame, frames_of

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


def prepare(picture: Image.Image | Pixels, pre: Preprocessing, *, frames: bool) -> Array:
    """One picture as a graph takes it: float32 (3, H, W), or uint8 (H, W, 3). Raises ImageError."""
    return frame(picture, pre) if frames else apply(picture, pre)


def as_fed(images: Floats, model: Model, pre: Preprocessing) -> Array:
    """Normalised images (n, 3, H, W) as the graphs of a model take them.

    Raises BundleError: the graphs take frames, and these images were not made of any.
    """
    if not model.takes_frames:
        return images
    try:
        return frames_of(images, pre)
    except ImageError as error:
        raise BundleError(f"the reference's images: {error}. Export again") from error
