"""Pictures that need no download: a fixed set to measure and compare models on when the user names no folder.

A network behaves on white noise as on nothing it was trained for: attention is flat and all tokens score
alike, which is the worst case for comparing kept sets and tells nothing about real ones. These pictures have
the amplitude spectrum of photographs, about 1 / frequency (Field 1987, Relations between the statistics of
natural images), plus edges, gradients and textures, so that some patches matter more than others. All
arithmetic is on integers and the generator is numpy's frozen RandomState, so that every machine makes the
same bytes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]

_ASPECTS = ((1, 1), (3, 4), (4, 3), (2, 3), (3, 2), (9, 16), (16, 9), (1, 2))  # height : width
_COARSEST = 2  # cells along a side in the first octave
_ALL = slice(None)
_OCTAVES = 7


def builtin_images(count: int = 8, size: int = 256) -> list[Pixels]:
    """`count` different pictures, uint8 (h, w, 3), whose shorter side is `size` pixels.

    Picture i depends on i and `size` only: a longer set begins with the shorter one. Raises ValueError unless
    both are positive.
    """
    if count < 1 or size < 1:
        raise ValueError(f"expected a positive count and size, found {count} and {size}")
    return [_picture(index, size) for index in range(count)]


def _picture(index: int, size: int) -> Pixels:
    random = np.random.RandomState(index)
    tall, wide = _ASPECTS[index % len(_ASPECTS)]
    height, width = size * tall // min(tall, wide), size * wide // min(tall, wide)
    background = _colours(random, height, width)
    ground = _gradient(random, height, width)[..., None] * random.randint(-60, 61, size=3) // 256
    picture = background + ground
    for _ in range(random.randint(2, 6)):
        picture = _add_disc(random, picture)
    return _add_stripes(random, picture).clip(0, 255).astype(np.uint8)


def _colours(
    random: np.random.RandomState, height: int, width: int, rows: slice = _ALL, columns: slice = _ALL
) -> Integers:
    """1/f noise, (h, w, 3), of these rows and columns of a picture of that size.

    Strong shared brightness, and weaker colour of its own in each channel.
    """
    base = random.randint(70, 186, size=3)
    shared, *own = (_noise(random, height, width, rows, columns) for _ in range(4))
    return np.stack([base[c] + (shared * 3 + own[c] * 2) // 4 for c in range(3)], axis=-1)


def _noise(random: np.random.RandomState, height: int, width: int, rows: slice, columns: slice) -> Integers:
    """Octaves of value noise, about +-128: each has twice the cells and half the amplitude of the last."""
    down, right = np.arange(height, dtype=np.int64)[rows], np.arange(width, dtype=np.int64)[columns]
    total: Integers = np.zeros((len(down), len(right)), np.int64)
    for octave in range(_OCTAVES):
        cells = _COARSEST << octave
        lattice = random.randint(-128, 129, size=(cells + 2, cells + 2)).astype(np.int64)
        total += _upsample(lattice, down * cells * 256 // height, right * cells * 256 // width) >> octave
    return total


def _upsample(lattice: Integers, down: Integers, right: Integers) -> Integers:
    """Bilinear interpolation of lattice points to pixels at places in 256ths of a cell."""
    rows, down = np.divmod(down, 256)
    columns, right = np.divmod(right, 256)
    across = lattice[:, columns] * (256 - right) + lattice[:, columns + 1] * right
    both = across[rows] * (256 - down)[:, None] + across[rows + 1] * down[:, None]
    upsampled: Integers = both >> 16
    return upsampled


def _grid(height: int, width: int) -> tuple[Integers, Integers]:
    rows, columns = np.mgrid[0:height, 0:width].astype(np.int64)
    return rows, columns


def _gradient(random: np.random.RandomState, height: int, width: int) -> Integers:
    """A ramp from 0 to 256 in a random direction, (h, w)."""
    rows, columns = _grid(height, width)
    down, right = random.randint(0, 257), random.randint(0, 257)
    ramp: Integers = (rows * 256 // height * down + columns * 256 // width * right) // max(1, down + right)
    return ramp


def _add_disc(random: np.random.RandomState, picture: Integers) -> Integers:
    """A shaded ball with a texture of its own: an object with an outline. Only its surroundings are drawn."""
    height, width, _ = picture.shape
    radius = max(1, min(height, width) * random.randint(6, 28) // 100)
    row, column = random.randint(0, height), random.randint(0, width)
    box = slice(max(0, row - radius), row + radius), slice(max(0, column - radius), column + radius)
    rows, columns = (places[box] for places in _grid(height, width))
    squared = (rows - row) ** 2 + (columns - column) ** 2
    inside = squared < radius * radius
    shade = 80 - 140 * squared // (radius * radius)
    ball = _colours(random, height, width, *box) + shade[..., None]
    picture[box] = np.where(inside[..., None], ball, picture[box])
    return picture


def _add_stripes(random: np.random.RandomState, picture: Integers) -> Integers:
    """A rectangle of slanted stripes: a high-contrast texture in one place."""
    height, width, _ = picture.shape
    rows, columns = _grid(height, width)
    top, left = random.randint(0, height * 3 // 4 + 1), random.randint(0, width * 3 // 4 + 1)
    bottom, right = top + max(1, height // 4), left + max(1, width // 4)
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    slant, period = random.randint(-2, 3), max(2, min(height, width) * random.randint(2, 7) // 100)
    bright = (columns + slant * rows) // period % 2 == 0
    striped = picture + np.where(bright, 60, -60)[..., None]
    return np.where(inside[..., None], striped, picture)
