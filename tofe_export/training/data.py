"""The training data of one run: opened, split, checked against the model.

Class numbers follow timm: folder names in natural order. Where the model's class names are known,
`check_classes` compares them, since a wrong order looks like a model that has learnt nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tofe_export.errors import InputError, UsageError
from tofe_export.preprocess import Preprocessing
from tofe_export.training.pictures import Pictures
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import PictureSamples, Samples
from tofe_export.training.seeding import LIMIT, SPLIT, permutation
from tofe_export.training.sources import open_source
from tofe_export.training.transforms import EvaluationTransform, training_transform
from tofe_export.training.unreadable import Unreadable

SIZES = 4096  # files whose size is part of the fingerprint: looking at a million takes minutes over a network


@dataclass(frozen=True)
class TrainingData:
    """What one run learns from and is measured on."""

    train: Samples
    """Augmented pictures."""
    held_out: Samples
    """Pictures that are never trained on, preprocessed as in deployment."""
    classes: tuple[str, ...]
    name: str
    """The source as it was given."""
    fingerprint: str
    """Hash of class names, file names, labels, and the sizes of some files; not of the folder's place."""

    @property
    def num_classes(self) -> int:
        """How many classes the data has."""
        return len(self.classes)

    def unreadable(self, max_corrupt: float) -> Unreadable:
        """The judge of unreadable training pictures; `max_corrupt` is a share of them."""
        return Unreadable(len(self.train), self.train.name, max_corrupt, self.train.gone)


@dataclass(frozen=True)
class HeldOut:
    """What a model is evaluated on."""

    samples: Samples
    classes: tuple[str, ...]
    name: str
    fingerprint: str


class Labelled(Protocol):
    """Anything with named classes: TrainingData, HeldOut."""

    @property
    def name(self) -> str:
        """The source as it was given."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the class numbers."""


def open_data(
    source: str,
    preprocessing: Preprocessing,
    recipe: Recipe,
    noise_shape: tuple[int, int],  # (S, N)
    num_images: int | None = None,
) -> TrainingData:
    """Open what `--data` names (`sources.open_source`) for training.

    Without a validation part, `recipe.holdout` of each class is held out, drawn by the seed. `num_images`
    limits training and held-out pictures each. Raises InputError, UsageError, MissingBackend.
    """
    train, held_out = open_source(source)
    if train is None:
        raise InputError(f"{source}: expected pictures for training in train/, found a validation part only")
    if held_out is None:
        learn, test = hold_out(train.targets, recipe.holdout, recipe.seed)
        held_out = train
    else:
        learn, test = list(range(len(train))), list(range(len(held_out)))
    learn, test = limited(learn, num_images), limited(test, num_images)
    augment, plain = training_transform(preprocessing, recipe), EvaluationTransform(preprocessing)
    shape = preprocessing.size, recipe.seed, noise_shape
    return TrainingData(
        PictureSamples(train, learn, augment, *shape),
        PictureSamples(held_out, test, plain, *shape),
        train.classes,
        source,
        fingerprint((train, learn), (held_out, test)),
    )


def open_held_out(
    source: str,
    preprocessing: Preprocessing,
    noise_shape: tuple[int, int],  # (S, N)
    num_images: int | None = None,
) -> HeldOut:
    """Open what `--data` names for evaluation: its validation part, or all of it where it has no parts.

    `num_images` limits them to a random choice, always the same. Raises InputError, MissingBackend.
    """
    train, held_out = open_source(source)
    pictures = held_out or train
    assert pictures is not None  # a source without any part raises InputError
    chosen = limited(list(range(len(pictures))), num_images)
    transform = EvaluationTransform(preprocessing)
    samples = PictureSamples(pictures, chosen, transform, preprocessing.size, 0, noise_shape)
    return HeldOut(samples, pictures.classes, source, fingerprint((pictures, chosen)))


def check_classes(data: Labelled, num_classes: int, classes: Sequence[str] | None = None) -> None:
    """Compare the data's classes with the model's: their number and, where the model has names, the names.

    A name fits a folder that has the whole name, or its first word: "n01440764 tench, Tinca tinca" fits the
    folder n01440764. Raises InputError.
    """
    if len(data.classes) != num_classes:
        raise InputError(
            f"{data.name}: expected {num_classes} class folders, one per output of the model, found "
            f"{len(data.classes)} ({_first(data.classes)}). Train a backbone on this data first, or give the "
            f"data that the model was trained on"
        )
    pairs = list(zip(data.classes, classes or data.classes, strict=True))
    wrong = [place for place, (folder, name) in enumerate(pairs) if not _fits(folder, name)]
    if wrong:
        shown = "; ".join(
            f"{place}: folder {pairs[place][0]!r}, model {pairs[place][1]!r}" for place in wrong[:3]
        )
        same = all(any(_fits(folder, name) for _, name in pairs) for folder, _ in pairs)
        raise InputError(
            f"{data.name}: expected the model's classes, found {len(wrong)} that differ"
            f"{' (the same names in another order)' if same else ''}: {shown}. "
            f"Folders are numbered in natural order of their names; rename them so that they fit the model"
        )


def share_names(data: Labelled, classes: Sequence[str]) -> bool:
    """Whether any folder fits any of these class names, as `check_classes` understands fitting."""
    known = {*classes, *(name.split(" ", 1)[0] for name in classes)}
    return not known.isdisjoint(data.classes)


def hold_out(targets: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions for training and for validation, ascending: `share` of each class, drawn by the seed.

    Of a class with two pictures or more at least one is held out, and one stays. Raises UsageError: share 0.
    """
    if share <= 0:
        raise UsageError(
            "the data has no validation part, and --holdout 0 holds none out. Give it a share above 0"
        )
    by_class: dict[int, list[int]] = {}
    for place in permutation(len(targets), SPLIT, seed).tolist():
        by_class.setdefault(int(targets[place]), []).append(place)
    test: set[int] = set()
    for places in by_class.values():
        count = max(round(share * len(places)), 1)
        test.update(places[: min(count, len(places) - 1)])
    if not test:
        raise InputError(
            "expected a class with 2 pictures or more, to hold one out for validation, found none"
        )
    return [place for place in range(len(targets)) if place not in test], sorted(test)


def limited(places: list[int], num_images: int | None) -> list[int]:
    """At most `num_images` of the places, ascending; the same ones each time. Raises UsageError below 1."""
    if num_images is None or num_images >= len(places):
        return places
    if num_images < 1:
        raise UsageError(f"expected to use at least 1 image, found {num_images}")
    drawn = permutation(len(places), LIMIT)[:num_images]
    return [places[int(place)] for place in sorted(drawn)]


def fingerprint(*parts: tuple[Pictures, Sequence[int]]) -> str:
    """Hash of what was chosen: class names, key and label of each picture, sizes of at most 4096 a part."""
    digest = hashlib.sha256()
    for pictures, chosen in parts:
        digest.update(repr((pictures.classes, len(chosen))).encode())
        for place in chosen:
            digest.update(f"{pictures.key(place)}\0{pictures.target(place)}\n".encode())
        for place in chosen[:: max(1, -(-len(chosen) // SIZES))]:
            digest.update(f"{pictures.size(place)}\n".encode())
    return digest.hexdigest()


def _fits(folder: str, name: str) -> bool:
    return folder in (name, name.split(" ", 1)[0])


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
