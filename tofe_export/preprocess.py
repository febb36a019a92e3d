"""The only preprocessing: from a picture file to the float32 array a model takes.

Training, export, verification and the user's own code must agree to the bit on resize, crop and
normalisation; two implementations of them are the usual reason why an exported model "loses accuracy". The
parameters travel checkpoint -> manifest -> here. The arithmetic is timm's evaluation transform
(`timm.data.create_transform`, which uses Pillow for pixels), done with Pillow and numpy so that a device
needs neither torch nor timm:

    resize the shorter side to floor(size / crop) ("center"), or both sides ("squash")
    cut the middle (H, W): a frame, which graphs exported with `--input uint8` take
    x / 255, minus mean, divided by std, channels first

`load_image` is stricter than timm: it turns pictures by their EXIF orientation, looks at the size in the
header before it decodes anything, opens only the raster formats below (Pillow would start Ghostscript for an
EPS file), and scales 16-bit greyscale to 8 bits instead of clipping it to white.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from tofe_export.errors import ImageError
from tofe_export.fields import Fields

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_SIDE = 65_535
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs (twice its warning threshold)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "hamming", "box")
CROP_MODES = ("center", "squash")
WHOLE = 0.01  # grey levels; float32 rounding moves a normalised level by 1e-5

Pixels = npt.NDArray[np.uint8]
# what Pillow's decoders raise for damaged files, besides UnidentifiedImageError
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, struct.error, zlib.error)


@dataclass(frozen=True)
class Preprocessing:
    """Parameters of the evaluation transform; mean and std are in units of pixel value / 255, order RGB."""

    size: tuple[int, int]  # height, width of the model's input
    crop: float  # share of the resized shorter side that is kept, 0 < crop <= 1; official DeiT: 0.875
    crop_mode: str  # "center" keeps the aspect ratio, "squash" does not
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `json` can write."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: object, where: str = "preprocessing") -> Preprocessing:
        """Check and build. Raises ValueError that names the key, what was expected and what was found."""
        fields = Fields(data, where)
        size, mean, std = fields.integers("size"), fields.numbers("mean"), fields.numbers("std")
        crop = fields.number("crop")
        mode = fields.text("crop_mode", CROP_MODES)
        interpolation = fields.text("interpolation", INTERPOLATIONS)
        fields.done()
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"{where}.size: expected [height, width], found {list(size)}")
        if not 0.0 < crop <= 1.0:
            raise ValueError(f"{where}.crop: expected a share in (0, 1], found {crop}")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0.0:
            raise ValueError(f"{where}: expected 3 means and 3 positive stds, found {mean} and {std}")
        return cls((size[0], size[1]), crop, mode, interpolation, (*mean[:2], mean[2]), (*std[:2], std[2]))


def load_image(path: Path | str, file: BinaryIO | None = None) -> Image.Image:
    """Read a picture as RGB, upright. Raises ImageError: missing, not a picture, damaged, or too large.

    Where the picture lies inside another file (a tar file), `file` has its bytes and `path` only names it.

    A side over 65,535 pixels or more than 179 megapixels are refused from the header, before any decoding.
    Transparency is dropped (as timm does); of an animation, the first frame is read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's: odd metadata, and sizes below our own limit
            with Image.open(file or path, formats=FORMATS) as image:  # reads the header only
                _check_size(path, image.size)
                return _to_rgb(path, ImageOps.exif_transpose(image), image.format)
    except Image.DecompressionBombError as error:
        raise ImageError(_too_large(path, "more pixels than that")) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{path}: expected a picture ({', '.join(FORMATS)}), found something else or a damaged header. "
            f"Remove the file or convert it"
        ) from error
    except FileNotFoundError as error:
        raise ImageError(f"{path}: expected a picture, found no such file") from error
    except _DAMAGE as error:
        raise ImageError(f"{path}: the picture cannot be read ({error}). Replace or remove it") from error


def apply(image: Image.Image | Pixels, pre: Preprocessing) -> npt.NDArray[np.float32]:
    """Resize, crop and normalise one picture: PIL image or uint8 (h, w, 3) -> float32 (3, H, W).

    Equals timm's evaluation transform. Raises ImageError as `frame` does.
    """
    pixels = frame(image, pre).astype(np.float32) / np.float32(255.0)  # (H, W, 3)
    normal = (pixels - np.array(pre.mean, np.float32)) / np.array(pre.std, np.float32)
    return np.ascontiguousarray(normal.transpose(2, 0, 1), dtype=np.float32)


def frame(image: Image.Image | Pixels, pre: Preprocessing) -> Pixels:
    """Resize and crop one picture, without normalisation: PIL image or uint8 (h, w, 3) -> uint8 (H, W, 3).

    Raises ImageError for other arrays, empty pictures, and aspect ratios so extreme that resizing the shorter
    side would need more than 179 megapixels.
    """
    picture = _as_image(image)
    resized = picture.resize(_resized_size(picture.size, pre), Image.Resampling[pre.interpolation.upper()])
    height, width = pre.size
    top = round((resized.height - height) / 2.0)
    left = round((resized.width - width) / 2.0)
    return np.array(resized.crop((left, top, left + width, top + height)), dtype=np.uint8)


def frames_of(images: npt.NDArray[np.float32], pre: Preprocessing) -> Pixels:
    """Undo the normalisation of `apply`: float32 (n, 3, H, W) -> the frames it was given, uint8 (n, H, W, 3).

    Exact, whatever version of Pillow made the frames. Raises ImageError where images are not whole grey
    levels from 0 to 255, so that no frame gives them.
    """
    normal = images.transpose(0, 2, 3, 1).astype(np.float64)
    levels = (normal * np.array(pre.std) + np.array(pre.mean)) * 255.0
    whole = np.rint(levels)
    finite = np.isfinite(levels).all()
    if not finite or np.abs(levels - whole).max() > WHOLE or whole.min() < 0 or whole.max() > 255:
        raise ImageError(
            "expected images made of whole grey levels from 0 to 255, found others (or another mean and std "
            "than theirs): no uint8 frame gives them"
        )
    return np.ascontiguousarray(whole, dtype=np.uint8)


def source_pixels(image: Image.Image | Pixels) -> Pixels:
    """The pixels before preprocessing, uint8 (h, w, 3). Raises ImageError as `apply` does."""
    return np.array(_as_image(image), dtype=np.uint8)


def _as_image(image: Image.Image | Pixels) -> Image.Image:
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"expected an uint8 array (h, w, 3), found {image.dtype} {image.shape}")
    return Image.fromarray(np.ascontiguousarray(image))


def _resized_size(size: tuple[int, int], pre: Preprocessing) -> tuple[int, int]:
    """(width, height) after resizing a picture of `size` (width, height), as torchvision and timm have it."""
    width, height = size
    tall, wide = (math.floor(side / pre.crop) for side in pre.size)
    if pre.crop_mode == "squash":
        return wide, tall
    if tall == wide:  # torchvision.transforms.Resize(int): the longer side is truncated
        short, long = sorted(size)
        longer = int(tall * long / short)
        new = (tall, longer) if width <= height else (longer, tall)
    else:  # timm's ResizeKeepRatio: rounded
        ratio = min(height / tall, width / wide)
        new = (round(width / ratio), round(height / ratio))
    if new[0] * new[1] > MAX_PIXELS:
        raise ImageError(_too_large("a picture", f"{width} x {height}, which resizes to {new[0]} x {new[1]}"))
    return new


def _check_size(path: Path | str, size: tuple[int, int]) -> None:
    width, height = size
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise ImageError(_too_large(path, f"{width} x {height}"))


def _too_large(path: Path | str, found: str) -> str:
    return (
        f"{path}: expected at most {MAX_SIDE} pixels a side and {round(MAX_PIXELS / 1e6)} megapixels, "
        f"found {found}. Scale the picture down or remove it"
    )


def _to_rgb(path: Path | str, image: Image.Image, form: str | None) -> Image.Image:
    """Decode and convert. 16-bit greyscale keeps its high byte, as libpng does for 16-bit colour."""
    if image.mode.startswith("I;16") or (image.mode == "I" and form in ("PNG", "PPM")):
        high = np.asarray(image).astype(np.int64) >> 8
        return Image.fromarray(high.clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"{path}: expected 8 or 16 bits a channel, found 32 bits: convert the picture")
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # straight to RGB, Pillow warns about byte transparency
    return image.convert("RGB")
