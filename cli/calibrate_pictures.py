"""The pictures of `calibrate`: what was asked for, all of them looked at before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tofe_export.cli import calibrate_report, console

if TYPE_CHECKING:
    from tofe_export.calibration.stream import ImageStream
    from tofe_export.preprocess import Preprocessing


@dataclass(frozen=True)
class Given:
    """The options."""

    folder: Path
    count: int | None
    seed: int
    batch: int
    max_corrupt: float

    def open(self, pre: Preprocessing, *, frames: bool = False) -> ImageStream:
        """Look at every picture; says which cannot be read. Raises ImageError."""
        from tofe_export.calibration.images import select
        from tofe_export.calibration.stream import ImageStream

        chosen = select(self.folder, self.count, self.seed)
        stream = ImageStream(chosen, pre, self.batch, frames=frames, max_corrupt=self.max_corrupt)
        with console.progress("looking at pictures", len(chosen.names)) as bar:
            stream.check(bar.advance)
        console.note(f"{stream.count} of {chosen.found} pictures in {self.folder}, seed {self.seed}")
        if lost := calibrate_report.unreadable_text(stream):
            console.warn(lost)
        return stream
