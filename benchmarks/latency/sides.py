"""One opponent as a file: its graph, what it executes, and which setting met the cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Side:
    """A graph that takes a fixed batch."""

    name: str
    file: str
    """Relative to the folder of its list."""
    batch: int
    gmacs: float
    """Executed per image, counted from the file."""
    made_from: str
    """Digest of the sources that made it."""
    setting: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen to meet the cost: counts, rate, resolution."""


class SideList:
    """The sides of one case in a folder, kept in `sides.json`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sides: dict[tuple[str, int], Side] = {}
        if self._path.exists():
            sides = [Side(**item) for item in json.loads(self._path.read_text(encoding="utf-8"))]
            self._sides = {(side.name, side.batch): side for side in sides}

    @property
    def _path(self) -> Path:
        return self.folder / "sides.json"

    def find(self, name: str, batch: int, made_from: str) -> Side | None:
        """The side, if these sources made it and its file is there."""
        side = self._sides.get((name, batch))
        fresh = side is not None and side.made_from == made_from and self.path(side).exists()
        return side if fresh else None

    def get(self, name: str, batch: int) -> Side:
        """The side as it was made last. Raises KeyError where it was never made."""
        return self._sides[name, batch]

    def add(self, side: Side) -> Side:
        """Keep a side that was made."""
        self._sides[side.name, side.batch] = side
        text = json.dumps([asdict(kept) for kept in self._sides.values()], indent=1)
        self._path.write_text(text + "\n", encoding="utf-8")
        return side

    def path(self, side: Side) -> Path:
        """Where its graph lies."""
        return self.folder / side.file
