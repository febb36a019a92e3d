"""Pictures from other libraries' collections, by timm's names: `hfds/NAME` and `torch/NAME`.

`hfds/NAME` is a Hugging Face data set, downloaded by the package `datasets` where it is not there yet.
`torch/NAME:FOLDER` is one of torchvision's, already downloaded to FOLDER (`data` where none is named): with
several processes, a download on the way would happen several times at once.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

from PIL import Image

from tofe_export.errors import ImageError, InputError, MissingBackend
from tofe_export.preprocess import load_image
from tofe_export.training.pictures import Pictures

HUB, TORCH = "hfds/", "torch/"


class HubPictures(Pictures):
    """One split of a Hugging Face data set with the columns "image" and "label"."""

    def __init__(self, source: str, split: str) -> None:
        """Raises MissingBackend without the package `datasets`, InputError for what it cannot open."""
        from timm.data import create_dataset

        require_datasets(source)
        try:
            dataset: Any = create_dataset(source, split=split)
            reader = dataset.reader
            targets = reader.dataset[reader.label_key]
        except (OSError, ValueError, RuntimeError, KeyError, AssertionError) as error:
            raise InputError(f"{source}: the split {split!r} cannot be opened: {error}") from error
        self.source, self.split, self._reader = source, split, reader
        self.classes = tuple(sorted(reader.class_to_idx, key=lambda name: int(reader.class_to_idx[name])))
        self.targets = checked(f"{source} ({split})", self.classes, list(targets))

    def load(self, position: int) -> Image.Image:
        """As `Pictures.load`."""
        try:
            file = self._reader[position][0]
        except (OSError, ValueError, AssertionError, TypeError) as error:
            raise ImageError(f"{self.name(position)}: the picture cannot be read ({error})") from error
        with file:
            return load_image(self.name(position), file)

    def name(self, position: int) -> str:
        """Source, split and row."""
        return f"{self.source} {self.split} {position}"


class TorchPictures(Pictures):
    """One of torchvision's data sets, whole in memory or in files of its own."""

    def __init__(self, source: str, split: str) -> None:
        """Raises InputError: no such data set, not downloaded, or one without class names."""
        from timm.data import create_dataset

        name, _, folder = source.partition(":")
        try:
            dataset: Any = create_dataset(name, root=folder or "data", split=split, download=False)
        except (OSError, ValueError, RuntimeError, KeyError, AssertionError) as error:
            raise InputError(
                f"{source}: the split {split!r} cannot be opened in the folder {folder or 'data'!r}: "
                f"{error}. Download it there first with torchvision.datasets"
            ) from error
        if not hasattr(dataset, "targets") or not hasattr(dataset, "classes"):
            raise InputError(f"{source}: expected a data set with one class for each picture")
        self.source, self.split, self._dataset = source, split, dataset
        self.classes = tuple(str(name) for name in dataset.classes)
        self.targets = checked(f"{source} ({split})", self.classes, list(dataset.targets))

    def load(self, position: int) -> Image.Image:
        """As `Pictures.load`."""
        try:
            picture: Image.Image = self._dataset[position][0]
            return picture.convert("RGB")
        except (OSError, ValueError, SyntaxError) as error:
            raise ImageError(f"{self.name(position)}: the picture cannot be read ({error})") from error

    def name(self, position: int) -> str:
        """Source, split and position."""
        return f"{self.source} {self.split} {position}"


def hub_splits(source: str) -> list[str]:
    """Names of the splits of a Hugging Face data set. Raises MissingBackend, InputError."""
    require_datasets(source)
    datasets: Any = importlib.import_module("datasets")
    try:
        return list(datasets.get_dataset_split_names(source.removeprefix(HUB)))
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{source}: the data set cannot be opened: {error}") from error


def require_datasets(source: str) -> None:
    """Raises MissingBackend where the package is missing (timm would print and raise ImportError)."""
    if importlib.util.find_spec("datasets") is None:
        raise MissingBackend(
            f"{source} needs the package `datasets`, which is not installed. "
            f"Install it with: pip install datasets"
        )


def checked(where: str, classes: tuple[str, ...], targets: Sequence[Any]) -> list[int]:
    """Targets as integers. Raises InputError: fewer than 2 classes, or labels that are none of them."""
    if len(classes) < 2:
        raise InputError(f"{where}: expected labels with at least 2 class names, found {list(classes)}")
    try:
        numbers = [int(target) for target in targets]
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: expected one class for each picture, found other labels") from error
    if not numbers or min(numbers) < 0 or max(numbers) >= len(classes):
        span = f"{min(numbers)} to {max(numbers)}" if numbers else "no pictures"
        raise InputError(f"{where}: expected labels 0 to {len(classes) - 1}, found {span}")
    return numbers
