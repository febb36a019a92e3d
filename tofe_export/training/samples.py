"""One sample of the training data, and the data sets that hand it out.

A data set is asked by (epoch, index), because every draw that makes a sample (crop, colours, erasing, the
noise of the masks) is keyed by the seed, the epoch and the sample. Shapes: S stages, N patch tokens.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tofe_export.errors import ImageError
from tofe_export.training.batch import Batch
from tofe_export.training.pictures import Pictures
from tofe_export.training.seeding import AUGMENT, NOISE, REPLACE, logistic, seeded, words

NOTHING = -(2**62)
"""The index of a sample for which no readable picture was found: its image is empty, training has to stop."""

TRIES = 32  # pictures looked at for one sample; half of them unreadable, this fails once in 4 billion

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True)
class Sample:
    """One image on its way into a batch."""

    image: Tensor
    """(3, H, W) float32, normalised."""
    target: int
    index: int
    """Position in the data set; -1 - position where the picture could not be read and another replaces it."""
    noise: Tensor
    """(S, N) standard logistic noise, float32."""


class Samples(Dataset[Sample]):
    """A data set that is asked by (epoch, index)."""

    @abstractmethod
    def __len__(self) -> int:
        """How many samples an epoch has."""

    @abstractmethod
    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The sample `index` as `epoch` sees it."""

    @abstractmethod
    def name(self, index: int) -> str:
        """What messages call sample `index`: a path, or a position in an archive."""

    def gone(self) -> str | None:
        """A message if the whole data disappeared since it was opened, else None."""
        return None


class PictureSamples(Samples):
    """Pictures behind a transform.

    An unreadable picture is replaced by another one of the data set (with that one's label), drawn for this
    (seed, epoch, sample), so that batches keep their size and a resumed run sees the same images.
    """

    def __init__(
        self,
        pictures: Pictures,
        chosen: Sequence[int],
        transform: Transform,
        size: tuple[int, int],
        seed: int,
        noise_shape: tuple[int, int],
    ) -> None:
        self.pictures = pictures
        self.chosen = chosen  # positions in `pictures`
        self.transform = transform
        self.size = size
        self.seed = seed
        self.noise_shape = noise_shape

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        noise = logistic(self.noise_shape, NOISE, self.seed, epoch, index)
        for attempt, position in enumerate(self._positions(epoch, index)):
            try:
                image = self._image(self.chosen[position], (AUGMENT, self.seed, epoch, index))
            except ImageError:
                if self.pictures.gone():
                    break
                continue
            target = self.pictures.target(self.chosen[position])
            return Sample(image, target, -1 - index if attempt else index, noise)
        return Sample(torch.zeros(3, *self.size), 0, NOTHING, noise)

    def name(self, index: int) -> str:
        """What messages call the picture of sample `index`."""
        return self.pictures.name(self.chosen[index])

    def gone(self) -> str | None:
        """As `Samples.gone`."""
        return self.pictures.gone()

    def _positions(self, epoch: int, index: int) -> list[int]:
        """Where to look for sample `index`: at its own picture first."""
        others = words(TRIES - 1, REPLACE, self.seed, epoch, index) % len(self)
        return [index, *(int(other) for other in others)]

    def _image(self, position: int, key: tuple[int, ...]) -> Tensor:
        picture = self.pictures.load(position)
        with seeded(*key):
            return self.transform(picture)


class ArraySamples(Samples):
    """Images that lie in memory, ready for the model: for small data and for tests."""

    def __init__(
        self,
        images: Tensor,  # (n, 3, H, W) float32, normalised
        targets: Sequence[int] | Tensor,  # (n,)
        seed: int,
        noise_shape: tuple[int, int],  # (S, N)
    ) -> None:
        if len(images) != len(targets):
            raise ValueError(f"expected a target for each of {len(images)} images, found {len(targets)}")
        self.images = images
        self.targets = [int(target) for target in targets]
        self.seed = seed
        self.noise_shape = noise_shape

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        noise = logistic(self.noise_shape, NOISE, self.seed, epoch, index)
        return Sample(self.images[index], self.targets[index], index, noise)

    def name(self, index: int) -> str:
        """What messages call sample `index`."""
        return f"image {index}"


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples into a batch."""
    return Batch(
        torch.stack([sample.image for sample in samples]),
        torch.tensor([sample.target for sample in samples]),
        torch.tensor([sample.index for sample in samples]),
        torch.stack([sample.noise for sample in samples]),
    )
