"""Does the manifest's preprocessing, applied to the stored source pixels, give the stored images?

The unit is the grey level: 1/255 of the pixel range, divided by the channel's std. Versions of Pillow differ
by one level at a few pixels; a wrong crop, filter, channel order or normalisation differs by many. What is
wrong is found by trying: for each way to resize and crop, a straight line per channel from the pixels to the
stored values; the way that leaves no rest is the one that was used, and the line's slope and offset are its
std and mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tofe_export.preprocess import Preprocessing, apply
from tofe_export.reference import Reference
from tofe_export.verify.compare import Array, Floats
from tofe_export.verify.report import Check

MAX_LEVELS = 1.01  # one level, and the rounding of float32
MEAN_LEVELS = 0.1
FITS = 0.5  # grey levels (root mean square) that a fit may leave to count as found
FINDABLE_CROPS = (
    0.875,
    0.9,
    0.95,
    0.96,
    1.0,
    *np.arange(0.5, 1.0, 0.01).round(3).tolist(),
)  # usual ones first
SAMPLE = 2  # images looked at while searching


def remake(reference: Reference, pre: Preprocessing) -> Array:
    """The images as `pre` makes them from the stored source pixels, float32 (n, 3, H, W)."""
    return np.stack([apply(source, pre) for source in reference.sources])


def check_preprocessing(reference: Reference, pre: Preprocessing, remade: Array) -> Check:
    """Stored against remade images: at most 1.01 grey levels anywhere and 0.1 on average."""
    name, stored = "preprocessing", reference.images
    if stored.shape != remade.shape:
        detail = (
            f"the stored images are {stored.shape[2:]}, the manifest's preprocessing makes {remade.shape[2:]}"
        )
        return Check(name, False, detail, {"cause": "size"})
    if not np.isfinite(stored).all():
        return Check(name, False, "the stored images hold NaN or Inf", {"cause": "non-finite"})
    levels = np.abs(stored.astype(np.float64) - remade) * 255 * np.array(pre.std)[:, None, None]
    largest, mean = float(levels.max()), float(levels.mean())
    numbers = {
        "largest_levels": largest,
        "mean_levels": mean,
        "stored_channel_means": stored.mean((0, 2, 3)).tolist(),
        "remade_channel_means": remade.mean((0, 2, 3)).tolist(),
    }
    detail = f"{len(stored)} images differ by at most {largest:.2f} grey levels, {mean:.3f} on average"
    if largest <= MAX_LEVELS and mean <= MEAN_LEVELS:
        return Check(name, True, detail, numbers)
    cause, sentence = explain(reference, pre)
    return Check(name, False, f"{detail}: {sentence}", {**numbers, "cause": cause})


@dataclass(frozen=True)
class Fit:
    """Stored channel c = slope[c] * pixels of channel order[c] + offset[c]; `rest` in grey levels."""

    pre: Preprocessing
    order: tuple[int, ...]
    slope: Floats
    offset: Floats
    rest: float


def explain(reference: Reference, pre: Preprocessing) -> tuple[str, str]:
    """(cause, sentence) for images that `pre` does not make; cause is a "+"-joined list or "unknown"."""
    best = min((fit(reference, way) for way in _ways(pre)), key=lambda found: found.rest)
    best = min([best, *(fit(reference, way) for way in _filters(best.pre))], key=lambda found: found.rest)
    if best.rest > FITS:
        return (
            "unknown",
            "no crop, filter, channel order or normalisation explains them; other images, perhaps",
        )
    found = list(_differences(best, pre))
    if not found:
        return "unknown", "a few pixels differ; the images were changed after preprocessing"
    return "+".join(cause for cause, _ in found), "; ".join(sentence for _, sentence in found)


def fit(reference: Reference, way: Preprocessing) -> Fit:
    """The best straight line per stored channel, over the possible source channels."""
    plain = replace(way, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    pixels = np.stack([apply(source, plain) for source in reference.sources[:SAMPLE]], axis=1).reshape(3, -1)
    stored = reference.images[:SAMPLE].swapaxes(0, 1).reshape(3, -1).astype(np.float64)
    x, y = pixels - pixels.mean(1, keepdims=True), stored - stored.mean(1, keepdims=True)
    slopes = (y @ x.T) / np.maximum((x * x).sum(1), 1e-12)  # (stored channel, source channel)
    rest = np.sqrt(np.maximum((y * y).mean(1)[:, None] - slopes**2 * (x * x).mean(1), 0))
    levels = 255 * rest / np.maximum(np.abs(slopes), 1e-12)
    order = levels.argmin(1)
    rows = np.arange(3)
    slope = slopes[rows, order]
    offset = stored.mean(1) - slope * pixels.mean(1)[order]
    return Fit(way, tuple(int(c) for c in order), slope, offset, float(levels[rows, order].max()))


def _ways(pre: Preprocessing) -> Iterator[Preprocessing]:
    yield pre
    for mode in ("center", "squash"):
        yield from (replace(pre, crop=crop, crop_mode=mode) for crop in FINDABLE_CROPS)


def _filters(pre: Preprocessing) -> Iterator[Preprocessing]:
    yield from (replace(pre, interpolation=name) for name in ("bicubic", "bilinear", "lanczos", "nearest"))


def _differences(found: Fit, pre: Preprocessing) -> Iterator[tuple[str, str]]:
    """What the fit says was used, where the manifest says otherwise."""
    if found.order != (0, 1, 2):
        yield "channel-order", f"their channels are in the order {''.join('RGB'[c] for c in found.order)}"
    for key in ("crop", "crop_mode", "interpolation"):
        used, stated = getattr(found.pre, key), getattr(pre, key)
        if used != stated:
            yield key, f"they were made with {key} {used}, the manifest says {stated}"
    std = 1 / found.slope
    mean = -found.offset * std
    if np.abs(mean - np.array(pre.mean)).max() > 0.5 / 255:
        yield (
            "mean",
            f"they were made with mean {_triple(mean)}, the manifest says {_triple(np.array(pre.mean))}",
        )
    if np.abs(std / np.array(pre.std) - 1).max() > 0.005:
        yield "std", f"they were made with std {_triple(std)}, the manifest says {_triple(np.array(pre.std))}"


def _triple(values: Floats) -> str:
    return "(" + ", ".join(f"{value:.3f}" for value in values) + ")"
