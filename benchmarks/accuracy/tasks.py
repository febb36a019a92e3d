"""The data: which images train, which test, and how a training image is augmented."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from accuracy.settings import Size
from tofe_export.errors import InputError, UsageError
from tofe_export.training.samples import ArraySamples, Sample
from tofe_export.training.seeding import AUGMENT, SPLIT, permutation, words

_RECORD = 1 + 3 * 32 * 32  # CIFAR-10's binary version: label, then the planes
_TRAINING_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))


class Arrays(NamedTuple):
    """Images (n, 3, H, W) float32 in [-1, 1] and labels (n,)."""

    images: Tensor
    labels: Tensor


class Task(NamedTuple):
    """What one seed trains and tests on."""

    train: MovedSamples
    measured: ArraySamples
    """Training images as they are: keep counts and thresholds come from them."""
    test: Arrays
    classes: int


class MovedSamples(ArraySamples):
    """Images in memory, moved by up to `shift` pixels, perhaps flipped; drawn for (seed, epoch, sample)."""

    def __init__(
        self, arrays: Arrays, seed: int, noise_shape: tuple[int, int], shift: int, flip: bool
    ) -> None:
        super().__init__(arrays.images, arrays.labels, seed, noise_shape)
        self.shift, self.flip = shift, flip
        self._padded = functional.pad(arrays.images, (shift,) * 4, value=-1.0)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample `key` = (epoch, index)."""
        sample = super().__getitem__(key)
        epoch, index = key
        draws = words(3, AUGMENT, self.seed, epoch, index)
        down, right = (int(draw % np.uint64(2 * self.shift + 1)) for draw in draws[:2])
        height, width = sample.image.shape[1:]
        image = self._padded[index, :, down : down + height, right : right + width]
        if self.flip and draws[2] % np.uint64(2):
            image = image.flip(2)
        return Sample(image, sample.target, sample.index, sample.noise)


def load_task(size: Size, seed: int, noise_shape: tuple[int, int], data: Path | None = None) -> Task:
    """The data of `size`, split and ordered for `seed`; `noise_shape` is (S, N).

    Raises UsageError where `data` is needed and not given, InputError where it is not CIFAR-10.
    """
    if size.task == "digits":
        train, test = digits(seed)
    elif data is None:
        raise UsageError(
            f"{size.task} needs --data: a folder of CIFAR-10's binary version, or of train/CLASS/*.jpg and "
            "test/CLASS/*.jpg"
        )
    else:
        train, test = cifar10(data)
    return Task(
        MovedSamples(train, seed, noise_shape, size.shift, size.flip),
        ArraySamples(train.images[: size.measured], train.labels[: size.measured], seed, noise_shape),
        test,
        int(train.labels.max()) + 1,
    )


def digits(seed: int) -> tuple[Arrays, Arrays]:
    """scikit-learn's 1797 digits, half for training and half for testing, split by `seed`.

    Their 8 x 8 pixels are enlarged to 32 x 32: a patch of 4 x 4 is one pixel with a hint of its neighbours.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images).float().div(8).sub(1)  # 0..16 -> -1..1
    large = functional.interpolate(images.unsqueeze(1), scale_factor=4, mode="bicubic")
    everything = Arrays(large.clamp(-1, 1).repeat(1, 3, 1, 1), torch.from_numpy(found.target).long())
    order = torch.from_numpy(permutation(len(images), SPLIT, seed))
    half = len(images) // 2
    train, test = (Arrays(*(part[chosen] for part in everything)) for chosen in (order[:half], order[half:]))
    return train, test


def cifar10(folder: Path) -> tuple[Arrays, Arrays]:
    """CIFAR-10, 50 000 images to train on and 10 000 to test: its binary version, or a folder per class."""
    if (folder / "train").is_dir():
        return _pictures(folder / "train"), _pictures(folder / "test")
    parts = [_records(folder / name) for name in _TRAINING_FILES]
    train = Arrays(*(torch.cat(column) for column in zip(*parts, strict=True)))
    return train, _records(folder / "test_batch.bin")


def _pictures(folder: Path) -> Arrays:
    """CLASS/*.jpg or *.png; classes in the order of their names, which is CIFAR-10's own."""
    paths = sorted(path for path in folder.glob("*/*") if path.suffix in (".jpg", ".png"))
    if not paths:
        raise InputError(f"{folder}: expected folders of pictures, one per class, found none")
    names = sorted({path.parent.name for path in paths})
    pixels = np.stack([_pixels(path) for path in paths])  # (n, 32, 32, 3)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
    return Arrays(images, torch.tensor([names.index(path.parent.name) for path in paths]))


def _pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        if picture.size != (32, 32):
            raise InputError(f"{path}: expected 32 x 32 pixels, found {picture.width} x {picture.height}")
        return np.asarray(picture.convert("RGB"))


def _records(path: Path) -> Arrays:
    try:
        raw = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise InputError(
            f"{path}: expected a file of CIFAR-10's binary version ({error.strerror})"
        ) from error
    if not len(raw) or len(raw) % _RECORD:
        raise InputError(f"{path}: expected records of {_RECORD} bytes, found {len(raw)} bytes in all")
    rows = raw.reshape(-1, _RECORD)
    images = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32)).div(127.5).sub(1)
    return Arrays(images, torch.from_numpy(rows[:, 0].astype(np.int64)))
