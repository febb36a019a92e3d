"""The reference: what PyTorch answered, stored beside the graphs to judge by without PyTorch.

`reference.npz` holds the source pixels and the preprocessed images (so that preprocessing is testable on
its own) and, per key, the model's output, selection scores and kept sets. Variants with the same keep
counts share a key; "dense" has only an output. Kept sets are stored as masks over the N spatial patch
positions: they have the same shape for fixed counts and for instance-adaptive models, where every image
keeps another number.

    images         float32 (n, 3, H, W)    preprocessed
    source_0000    uint8 (h, w, 3)         before preprocessing; sizes differ from image to image
    KEY.output     float32 (n, ...)        logits, features or tokens
    KEY.scores     float32 (n, S, N)       in spatial order; NaN where a token was not scored
    KEY.kept       bool (n, S, N)          True where the token was kept

A bundle travels between people, so nothing in it may run: members that would need pickle are refused.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tofe_export.errors import BundleError
from tofe_export.files import atomic_file

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]

# what numpy and zipfile raise for damaged archives; RuntimeError: encrypted; MemoryError: absurd sizes
_DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    EOFError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Entry:
    """One key's answers for all n images; scores and kept are None for a dense model."""

    output: Floats
    scores: Floats | None = None
    kept: Masks | None = None

    def check(self, key: str, count: int) -> None:
        """Raise ValueError unless dtypes and shapes are those of the module docstring."""
        _expect(f"{key}.output", self.output, "float32", (count,))
        if (self.scores is None) != (self.kept is None):
            raise ValueError(f"{key}: expected scores and kept sets together, found only one of them")
        if self.scores is not None and self.kept is not None:
            _expect(f"{key}.scores", self.scores, "float32", (count,), dimensions=3)
            _expect(f"{key}.kept", self.kept, "bool", self.scores.shape, dimensions=3)


@dataclass(frozen=True, eq=False)
class Reference:
    """Golden inputs and PyTorch's answers. Raises ValueError when shapes or dtypes do not fit together."""

    images: Floats
    sources: Sequence[Pixels]
    entries: Mapping[str, Entry]

    def __post_init__(self) -> None:
        _expect("images", self.images, "float32", (), dimensions=4)
        if self.images.shape[1] != 3:
            raise ValueError(f"images: expected 3 channels on axis 1, found shape {self.images.shape}")
        if len(self.sources) != len(self.images):
            raise ValueError(f"expected {len(self.images)} source images, found {len(self.sources)}")
        for number, source in enumerate(self.sources):
            _expect(_source_name(number), source, "uint8", (), dimensions=3)
            if source.shape[2] != 3:
                raise ValueError(f"{_source_name(number)}: expected (h, w, 3), found shape {source.shape}")
        for key, entry in self.entries.items():
            entry.check(key, len(self.images))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the entries, in the order they were added."""
        return tuple(self.entries)

    def output(self, key: str) -> Floats:
        """Output of `key`, float32 (n, ...). Raises BundleError for a key that is not there."""
        return self._entry(key).output

    def scores(self, key: str) -> Floats:
        """Selection scores of `key`, float32 (n, S, N), NaN where not scored. Raises BundleError."""
        scores = self._entry(key).scores
        if scores is None:
            raise BundleError(f"the reference holds no selection scores for {key!r}: it is a dense model's")
        return scores

    def kept(self, key: str) -> Masks:
        """Kept sets of `key`, bool (n, S, N). Raises BundleError."""
        kept = self._entry(key).kept
        if kept is None:
            raise BundleError(f"the reference holds no kept sets for {key!r}: it is a dense model's")
        return kept

    def with_entry(
        self, key: str, output: Floats, scores: Floats | None = None, kept: Masks | None = None
    ) -> Reference:
        """A copy with `key` added or replaced. Raises ValueError when the arrays do not fit."""
        return replace(self, entries={**self.entries, key: Entry(output, scores, kept)})

    def images_sha256(self) -> str:
        """Hash of the sources and the preprocessed images; equal for references that can be merged."""
        digest = hashlib.sha256()
        arrays: list[npt.NDArray[Any]] = [self.images, *self.sources]
        for array in arrays:
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Write the npz file atomically; the same content gives the same bytes. Raises WriteError."""
        members: dict[str, Any] = {"images": self.images}
        members |= {_source_name(number): source for number, source in enumerate(self.sources)}
        for key, entry in self.entries.items():
            parts = (("output", entry.output), ("scores", entry.scores), ("kept", entry.kept))
            members |= {f"{key}.{part}": array for part, array in parts if array is not None}
        with atomic_file(path) as file:
            np.savez(file, allow_pickle=False, **members)

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read an npz file; nothing is ever unpickled. Raises BundleError for any other file."""
        try:
            return _assemble(_members(path))
        except _DAMAGE as error:
            raise BundleError(
                f"{path}: expected reference data of tofe-export, found a damaged file ({error}). "
                "Copy the bundle again or export again"
            ) from error

    def _entry(self, key: str) -> Entry:
        if key not in self.entries:
            raise BundleError(
                f"the reference holds no {key!r}, only {', '.join(self.keys) or 'nothing'}: export again"
            )
        return self.entries[key]


def _source_name(number: int) -> str:
    return f"source_{number:04d}"


def _expect(
    name: str, array: npt.NDArray[Any], dtype: str, leading: tuple[int, ...], dimensions: int | None = None
) -> None:
    """Raise ValueError unless `array` has that dtype, number of dimensions and first sizes."""
    right_rank = array.ndim == dimensions if dimensions is not None else array.ndim > len(leading)
    if array.dtype != np.dtype(dtype) or not right_rank or array.shape[: len(leading)] != leading:
        open_sizes = ["*"] * (dimensions - len(leading)) if dimensions is not None else ["..."]
        wanted = ", ".join([*map(str, leading), *open_sizes])
        raise ValueError(f"{name}: expected {dtype} ({wanted}), found {array.dtype} {array.shape}")


def _members(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not zipfile.is_zipfile(path):  # np.load also takes .npy files and bare pickles
        raise ValueError("not an npz archive" if path.exists() else "no such file")
    with np.load(path, allow_pickle=False) as archive:
        return {name: np.asarray(archive[name]) for name in archive.files}


def _assemble(members: dict[str, npt.NDArray[Any]]) -> Reference:
    images = members.pop("images")
    _expect("images", images, "float32", (), dimensions=4)
    sources = [members.pop(_source_name(number)) for number in range(len(images))]
    parts: dict[str, dict[str, Any]] = {}
    for name, array in members.items():
        key, _, part = name.rpartition(".")
        if not key or part not in ("output", "scores", "kept"):
            raise ValueError(f"unknown member {name!r}")
        parts.setdefault(key, {})[part] = array
    for key in parts:
        if "output" not in parts[key]:
            raise ValueError(f"{key} has no output")
    return Reference(images, sources, {key: Entry(**arrays) for key, arrays in parts.items()})
