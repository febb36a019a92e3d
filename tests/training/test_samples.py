"""Samples: keyed draws, replacement of unreadable pictures, collation."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tofe_export.errors import ImageError
from tofe_export.training.pictures import Pictures
from tofe_export.training.samples import NOTHING, ArraySamples, PictureSamples, collate

NOISE_SHAPE = (3, 4)


class Drawn(Pictures):
    """`count` grey pictures of class index % 2; `broken` ones cannot be read."""

    def __init__(self, count: int, broken: Sequence[int] = (), message: str | None = None) -> None:
        self.classes = ("even", "odd")
        self.targets = [index % 2 for index in range(count)]
        self.broken, self.message = broken, message
        self.loads = 0

    def load(self, position: int) -> Image.Image:
        self.loads += 1
        if position in self.broken:
            raise ImageError(f"{position}: cannot be read")
        return Image.new("RGB", (2, 2), (position, position, position))

    def name(self, position: int) -> str:
        return f"picture {position}"

    def gone(self) -> str | None:
        return self.message


def noisy(picture: Image.Image) -> Tensor:
    """Draws from all three global generators; the first number tells the picture."""
    grey = float(np.asarray(picture)[0, 0, 0])
    draws = torch.tensor([grey, random.random(), float(np.random.rand()), float(torch.rand(()))])
    return draws.expand(3, 1, 4).clone()


def samples(pictures: Pictures, seed: int = 0, chosen: Sequence[int] | None = None) -> PictureSamples:
    places = range(len(pictures)) if chosen is None else chosen
    return PictureSamples(pictures, places, noisy, (1, 4), seed, NOISE_SHAPE)


def test_a_sample_depends_on_seed_epoch_and_index_only() -> None:
    data = samples(Drawn(6))
    first = data[0, 3]
    random.seed(5)
    torch.manual_seed(5)
    data[0, 1]
    again = samples(Drawn(6))[0, 3]
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.noise, again.noise)
    assert (first.target, first.index) == (1, 3)
    for other in (data[1, 3], samples(Drawn(6), seed=1)[0, 3]):
        assert float(other.image[0, 0, 0]) == 3
        assert not torch.equal(other.image, first.image)
        assert not torch.equal(other.noise, first.noise)


def test_noise_has_its_shape() -> None:
    noise = samples(Drawn(2))[0, 0].noise
    assert noise.shape == NOISE_SHAPE
    assert noise.dtype == torch.float32


def test_chosen_pictures_are_numbered_from_0() -> None:
    data = samples(Drawn(9), chosen=[4, 7])
    assert len(data) == 2
    assert data[0, 1].index == 1
    assert float(data[0, 1].image[0, 0, 0]) == 7
    assert data.name(1) == "picture 7"


def test_unreadable_picture_is_replaced_by_a_drawn_one_with_its_own_label() -> None:
    broken = [0, 1, 2, 3, 4]
    data = samples(Drawn(10, broken))
    stands_for = [data[epoch, 2] for epoch in range(20)]
    assert {sample.index for sample in stands_for} == {-3}
    shown = [int(sample.image[0, 0, 0]) for sample in stands_for]
    assert len(set(shown)) > 2
    assert not set(shown) & set(broken)
    assert [sample.target for sample in stands_for] == [place % 2 for place in shown]
    again = samples(Drawn(10, broken))[0, 2]
    assert torch.equal(again.image, stands_for[0].image)
    assert torch.equal(again.noise, samples(Drawn(10))[0, 2].noise)


def test_without_any_readable_picture_the_sample_says_so() -> None:
    sample = samples(Drawn(5, range(5)))[0, 1]
    assert sample.index == NOTHING
    assert sample.image.shape == (3, 1, 4)
    assert torch.count_nonzero(sample.image) == 0


def test_when_the_source_is_gone_no_other_picture_is_tried() -> None:
    pictures = Drawn(5, range(5), message="the folder disappeared")
    data = samples(pictures)
    assert data[0, 1].index == NOTHING
    assert pictures.loads == 1
    assert data.gone() == "the folder disappeared"


def test_array_samples_hand_out_what_they_were_given() -> None:
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.float32).reshape(4, 3, 2, 2)
    data = ArraySamples(images, torch.tensor([3, 2, 1, 0]), 0, NOISE_SHAPE)
    sample = data[5, 1]
    assert len(data) == 4
    assert torch.equal(sample.image, images[1])
    assert (sample.target, sample.index) == (2, 1)
    assert not torch.equal(sample.noise, data[6, 1].noise)
    assert torch.equal(sample.noise, samples(Drawn(4))[5, 1].noise)
    assert data.gone() is None
    assert data.name(1) == "image 1"


def test_array_samples_need_a_target_for_each_image() -> None:
    with pytest.raises(ValueError, match="a target for each of 2 images, found 3"):
        ArraySamples(torch.zeros(2, 3, 1, 1), [0, 1, 0], 0, NOISE_SHAPE)


def test_collate_stacks() -> None:
    data = samples(Drawn(10, [2]))
    batch = collate([data[0, index] for index in (5, 2, 4)])
    assert batch.images.shape == (3, 3, 1, 4)
    assert batch.noise.shape == (3, *NOISE_SHAPE)
    assert batch.targets.dtype == torch.int64
    assert batch.indices.tolist() == [5, -3, 4]
    assert torch.equal(batch.noise[2], data[0, 4].noise)
