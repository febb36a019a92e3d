"""Opening data: parts, hold-out, limits, fingerprints, damage, and classes that do not fit."""

from __future__ import annotations

import re
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image

from tofe_export.errors import InputError, UsageError
from tofe_export.preprocess import Preprocessing, apply, load_image
from tofe_export.training.data import (
    HeldOut,
    TrainingData,
    check_classes,
    hold_out,
    open_data,
    open_held_out,
)
from tofe_export.training.loading import in_order, loader
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import PictureSamples, Samples

PRE = Preprocessing((4, 4), 1.0, "squash", "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NOISE_SHAPE = (2, 3)


def recipe(**change: Any) -> Recipe:
    return Recipe(**{"budgets": (1.0,), "batch_size": 4, "holdout": 0.25, **change})


def write(root: Path, counts: dict[str, int]) -> Path:
    """Folders with so many pictures each, all different."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            colour = (len(name) * 7 % 256, number * 11 % 256, sum(name.encode()) % 256)
            Image.new("RGB", (5, 6), colour).save(root / name / f"{number}.png")
    return root


def open_all(source: Path | str, num_images: int | None = None, **change: Any) -> TrainingData:
    return open_data(str(source), PRE, recipe(**change), NOISE_SHAPE, num_images)


def names(samples: Samples) -> set[str]:
    return {samples.name(index) for index in range(len(samples))}


def labels(samples: Samples) -> Counter[int]:
    return Counter(samples[0, index].target for index in range(len(samples)))


@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("training", "validation"), ("train", "test")])
def test_a_folder_with_parts(tmp_path: Path, train: str, val: str) -> None:
    write(tmp_path / train, {"cat": 3, "dog": 5})
    write(tmp_path / val, {"cat": 2, "dog": 1})
    data = open_all(tmp_path)
    assert (data.classes, data.num_classes, data.name) == (("cat", "dog"), 2, str(tmp_path))
    assert labels(data.train) == {0: 3, 1: 5}
    assert labels(data.held_out) == {0: 2, 1: 1}
    assert all(f"{tmp_path}/{val}/" in name for name in names(data.held_out))


def test_samples_have_the_form_the_training_takes(tmp_path: Path) -> None:
    data = open_all(write(tmp_path, {"cat": 8, "dog": 8}))
    batch = next(iter(loader(data.train, recipe(), 0)))
    assert batch.images.shape == (4, 3, 4, 4)
    assert batch.noise.shape == (4, *NOISE_SHAPE)
    held_out = next(iter(in_order(data.held_out, 2)))
    expected = apply(load_image(data.held_out.name(1)), PRE)
    assert torch.equal(held_out.images[1], torch.from_numpy(expected))


def test_class_folders_alone_are_split_for_each_class(tmp_path: Path) -> None:
    root = write(tmp_path, {"cat": 8, "dog": 20, "owl": 2, "single": 1})
    data = open_all(root)
    assert labels(data.held_out) == {0: 2, 1: 5, 2: 1}
    assert labels(data.train) == {0: 6, 1: 15, 2: 1, 3: 1}
    assert not names(data.train) & names(data.held_out)
    assert len(names(data.train) | names(data.held_out)) == 31
    assert names(open_all(root).held_out) == names(data.held_out)
    assert names(open_all(root, seed=1).held_out) != names(data.held_out)


def test_training_pictures_are_augmented_and_held_out_ones_are_not(tmp_path: Path) -> None:
    data = open_all(write(tmp_path, {"cat": 8, "dog": 8}))
    assert not torch.equal(data.train[0, 0].image, data.train[1, 0].image)
    assert torch.equal(data.held_out[0, 0].image, data.held_out[1, 0].image)


def test_hold_out_leaves_something_on_both_sides() -> None:
    learn, test = hold_out([0, 0, 1, 1, 1], 0.9, seed=0)
    assert sorted(learn + test) == list(range(5))
    assert Counter(place > 1 for place in learn) == {False: 1, True: 1}
    with pytest.raises(InputError, match="a class with 2 pictures or more"):
        hold_out([0, 1], 0.5, seed=0)
    with pytest.raises(UsageError, match="no validation part, and --holdout 0"):
        hold_out([0, 0, 1, 1], 0.0, seed=0)


def test_num_images_limits_both_parts(tmp_path: Path) -> None:
    root = write(tmp_path, {"cat": 20, "dog": 20})
    data, whole = open_all(root, num_images=5), open_all(root)
    assert (len(data.train), len(data.held_out)) == (5, 5)
    assert names(data.train) < names(whole.train)
    assert names(data.train) == names(open_all(root, num_images=5).train)
    assert len(open_all(root, num_images=1000).train) == len(whole.train)
    with pytest.raises(UsageError, match="at least 1 image, found 0"):
        open_all(root, num_images=0)


def test_evaluation_takes_the_validation_part_or_everything(tmp_path: Path) -> None:
    write(tmp_path / "parts" / "train", {"cat": 3, "dog": 3})
    write(tmp_path / "parts" / "val", {"cat": 1, "dog": 1})
    write(tmp_path / "only" / "val", {"cat": 1, "dog": 2})
    write(tmp_path / "plain", {"cat": 4, "dog": 5})
    counts = [
        len(open_held_out(str(tmp_path / name), PRE, NOISE_SHAPE).samples)
        for name in ("parts", "only", "plain")
    ]
    assert counts == [2, 3, 9]
    limited = open_held_out(str(tmp_path / "plain"), PRE, NOISE_SHAPE, num_images=4)
    assert len(limited.samples) == 4
    assert limited.classes == ("cat", "dog")


def test_a_class_may_be_called_test(tmp_path: Path) -> None:
    assert open_all(write(tmp_path, {"train-tracks": 2, "test": 2})).classes == ("test", "train-tracks")


def test_tar_files_as_parts(tmp_path: Path) -> None:
    for part in ("train", "val"):
        folder = write(tmp_path / "source" / part, {"cat": 3, "dog": 2})
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            tar.add(folder, arcname=".")
    shutil.rmtree(tmp_path / "source")
    data = open_all(tmp_path)
    assert data.classes == ("cat", "dog")
    assert labels(data.train) == labels(data.held_out) == {0: 3, 1: 2}
    for samples in (data.train, data.held_out):
        assert isinstance(samples, PictureSamples)
        samples.pictures.close()


def test_fingerprint_tells_data_apart_and_not_where_it_lies(tmp_path: Path) -> None:
    root = write(tmp_path / "a", {"cat": 12, "dog": 12})
    original = open_all(root).fingerprint
    shutil.copytree(root, tmp_path / "b")
    assert open_all(tmp_path / "b").fingerprint == original
    assert open_all(root, num_images=2).fingerprint != original
    assert open_held_out(str(root), PRE, NOISE_SHAPE).fingerprint != original
    assert open_all(root, seed=1).fingerprint != original
    Image.new("RGB", (50, 50), (1, 2, 3)).save(root / "cat" / "0.png")
    assert open_all(root).fingerprint != original
    (tmp_path / "b" / "cat" / "3.png").rename(tmp_path / "b" / "dog" / "4.png")
    assert open_all(tmp_path / "b").fingerprint != original


def empty_class(root: Path) -> None:
    write(root / "train", {"cat": 2, "dog": 2, "owl": 0})
    write(root / "val", {"cat": 2, "dog": 2, "owl": 1})


def other_classes(root: Path) -> None:
    write(root / "train", {"cat": 1, "dog": 1, "emu": 1, "owl": 1, "rat": 1, "yak": 1})
    write(root / "val", {"cat": 1, "dig": 1})


def validation_only(root: Path) -> None:
    write(root / "val", {"cat": 2, "dog": 2})


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (empty_class, "train/owl is empty: expected pictures"),
        (other_classes, "found dog, emu, owl and 2 more only in training and dig only in validation"),
        (validation_only, "expected pictures for training in train/, found a validation part only"),
        (lambda root: write(root, {"cat": 3}), "at least 2, found 1 (cat)"),
        (lambda root: None, "at least 2, found 0"),
    ],
)
def test_folders_that_cannot_be_trained_on(
    tmp_path: Path, prepare: Callable[[Path], None], message: str
) -> None:
    prepare(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)):
        open_all(tmp_path)


def test_sources_that_are_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a folder with pictures .* found no such folder"):
        open_all(tmp_path / "nowhere")
    (tmp_path / "file.zip").write_bytes(b"x")
    with pytest.raises(InputError, match=r"file\.zip: expected a folder with pictures or a \.tar file"):
        open_all(tmp_path / "file.zip")


def test_corrupt_pictures_are_skipped_with_a_count_and_fail_above_the_limit(tmp_path: Path) -> None:
    root = write(tmp_path, {"cat": 30, "dog": 30})
    data = open_all(root, batch_size=44)
    bad = [0, 7, 30]
    for index in bad:
        Path(data.train.name(index)).write_bytes(b"\x89PNG\r\n\x1a\n broken")
    unreadable = data.unreadable(max_corrupt=0.1)
    batch = next(iter(loader(data.train, recipe(batch_size=44), 0)))
    assert sorted(unreadable.note(batch.indices)) == bad
    assert unreadable.names() == [data.train.name(index) for index in bad]
    assert bool(batch.images.isfinite().all())
    with pytest.raises(InputError, match=r"at most 2 of 44 .* found 3 so far\. They are .*\.png"):
        data.unreadable(max_corrupt=0.05).note(batch.indices)


def test_a_data_folder_that_disappears(tmp_path: Path) -> None:
    data = open_all(write(tmp_path / "data", {"cat": 8, "dog": 8}))
    shutil.rmtree(tmp_path / "data")
    batch = next(iter(loader(data.train, recipe(), 0)))
    with pytest.raises(InputError, match=f"the data folder {tmp_path}/data disappeared"):
        data.unreadable(max_corrupt=1.0).note(batch.indices)


class Named(NamedTuple):
    classes: tuple[str, ...]
    name: str = "DIR"


WORDNET = ("n01440764 tench, Tinca tinca", "n01443537 goldfish")


@pytest.mark.parametrize(
    ("folders", "classes"),
    [(("a", "b"), None), (("a", "b"), ("a", "b")), (("n01440764", "n01443537"), WORDNET), (WORDNET, WORDNET)],
)
def test_classes_that_fit(folders: tuple[str, ...], classes: Sequence[str] | None) -> None:
    check_classes(Named(folders), 2, classes)


def test_the_number_of_classes_has_to_fit() -> None:
    with pytest.raises(
        InputError,
        match=re.escape("expected 10 class folders, one per output of the model, found 4 (a, b, c, ...)"),
    ):
        check_classes(Named(("a", "b", "c", "d")), 10, None)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            "axcyz",
            "3 that differ: 1: folder 'x', model 'b'; 3: folder 'y', model 'd'; 4: folder 'z', model 'e'.",
        ),
        ("bacde", "found 2 that differ (the same names in another order): 0: folder 'b', model 'a'; "),
        (
            "vwxyz",
            "5 that differ: 0: folder 'v', model 'a'; 1: folder 'w', model 'b'; 2: folder 'x', model 'c'.",
        ),
    ],
)
def test_class_names_have_to_fit(folders: Iterable[str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        check_classes(Named(tuple(folders)), 5, tuple("abcde"))


def test_both_kinds_of_data_can_be_checked(tmp_path: Path) -> None:
    root = write(tmp_path, {"cat": 4, "dog": 4})
    held_out: HeldOut = open_held_out(str(root), PRE, NOISE_SHAPE)
    check_classes(held_out, 2, ("cat", "dog"))
    check_classes(open_all(root), 2)
    with pytest.raises(InputError, match="expected 3 class folders"):
        check_classes(held_out, 3)
