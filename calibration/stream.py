"""Pictures as batches, read when they are asked for: 50,000 need no more memory than 500.

Nothing is kept between two batches, so whoever goes through the pictures again reads them again. Every pass
must give the same batches, or what one pass found out would not fit the next: pictures that the first pass
could not read are left out of all others, and one that becomes unreadable later ends the calibration. `check`
is a first pass that computes nothing, so that bad pictures are reported before minutes of work.

A few unreadable pictures are counted, named and left out. More than the allowed share means that something
is wrong with the folder, and a calibration on the rest would hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from tofe_export.calibration.images import Selection
from tofe_export.errors import ImageError
from tofe_export.inputs import Array, prepare
from tofe_export.preprocess import Preprocessing, load_image

MAX_CORRUPT = 0.01
"""Share of pictures that may be unreadable; one may be in any case, unless this is 0."""

SHOWN = 5  # names in a message


@dataclass(frozen=True)
class ImageFacts:
    """What a calibration was made from."""

    folder: str
    """Name of the folder, without where it lies."""
    found: int
    """Pictures in the folder."""
    count: int
    """Pictures that were used."""
    seed: int
    """What the sample was drawn with."""
    sha256: str
    """Hash of the contents of all chosen files, unreadable ones included."""
    unreadable: tuple[str, ...]
    """Paths below the folder of chosen files that could not be read."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"unreadable": list(self.unreadable)}


class ImageStream:
    """Batches of a selection: float32 (b, 3, H, W), or uint8 frames (b, H, W, 3).

    Iterating raises ImageError: no picture can be read, more than the allowed share cannot, or one that an
    earlier pass read.
    """

    def __init__(
        self,
        selection: Selection,
        pre: Preprocessing,
        batch: int = 32,
        *,
        frames: bool = False,
        max_corrupt: float = MAX_CORRUPT,
    ) -> None:
        if batch < 1:
            raise ValueError(f"expected batches of at least 1 picture, found {batch}")
        self.selection, self.pre, self.batch, self.frames = selection, pre, batch, frames
        self.unreadable: dict[str, str] = {}
        """Name -> why, of all pictures that no pass could read."""
        self._sha256: str | None = None
        self.complete = False
        """Whether all pictures were looked at."""
        self.max_corrupt = max_corrupt
        self._allowed = max(int(max_corrupt * len(selection.names)), 1 if max_corrupt > 0 else 0)

    @property
    def count(self) -> int:
        """Pictures of a pass; known exactly once one is complete."""
        return len(self.selection.names) - len(self.unreadable)

    def __iter__(self) -> Iterator[Array]:
        pending: list[Array] = []
        for picture in self._pictures():
            pending.append(picture)
            if len(pending) == self.batch:
                yield np.stack(pending)
                pending = []
        if pending:
            yield np.stack(pending)

    def check(self, advance: Callable[[int], None] = lambda count: None) -> ImageStream:
        """Read every picture once; `advance` is called with the number of pictures that were just read.

        Raises ImageError as iterating does.
        """
        for images in self:
            advance(len(images))
        return self

    def part(self, first: int, step: int) -> ImageStream:
        """Every `step`-th of the pictures that can be read, from `first` on; after a complete pass.

        All of them were read, so none may become unreadable in the part either.
        """
        self._require_complete()
        readable = tuple(name for name in self.selection.names if name not in self.unreadable)
        chosen = replace(self.selection, names=readable).part(first, step)
        part = ImageStream(chosen, self.pre, self.batch, frames=self.frames, max_corrupt=self.max_corrupt)
        part.complete = True
        return part

    def facts(self) -> ImageFacts:
        """What was read, after a complete pass; the first time every file is read for its hash."""
        self._require_complete()
        chosen = self.selection
        self._sha256 = self._sha256 or chosen.sha256()
        return ImageFacts(
            chosen.root.resolve().name,
            chosen.found,
            self.count,
            chosen.seed,
            self._sha256,
            tuple(self.unreadable),
        )

    def _require_complete(self) -> None:
        if not self.complete:
            raise ValueError("expected a complete pass over the pictures first")

    def _pictures(self) -> Iterator[Array]:
        for name, path in zip(self.selection.names, self.selection.paths(), strict=True):
            if name in self.unreadable:
                continue
            try:
                picture = prepare(load_image(path), self.pre, frames=self.frames)
            except ImageError as error:
                self._note(name, error)
                continue
            yield picture
        if not self.count:
            raise ImageError(f"{self.selection.root}: no picture can be read. {self._listed()}")
        self.complete = True

    def _note(self, name: str, error: ImageError) -> None:
        if self.complete:
            raise ImageError(f"{error}. It could be read before: calibrate again when it stays as it is")
        self.unreadable[name] = str(error)
        if len(self.unreadable) > self._allowed:
            raise ImageError(
                f"{self.selection.root}: expected at most {self._allowed} of {len(self.selection.names)} "
                f"pictures to be unreadable (--max-corrupt), found {len(self.unreadable)} so far. "
                f"{self._listed()}"
            )

    def _listed(self) -> str:
        names = list(self.unreadable)
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        first = next(iter(self.unreadable.values()), "")
        return f"They are {', '.join(names[:SHOWN])}{more}; the first: {first}"
