"""What has been done so far, in one file: a run that is stopped goes on where it was.

Each step leaves a record under its key: "done", "failed" (with the reason) or "stopped" (its time was used
up; it is tried again). A step without a record has not been tried. Records of one device and one TensorRT
never mix with another's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tofe_export.errors import InputError
from tofe_export.files import write_atomic

DONE, FAILED, STOPPED = "done", "failed", "stopped"
SCHEMA = "tofe-export engines 1"
FIRST_GUESS = 15.0  # seconds that a step of an unknown kind may need

Record = dict[str, Any]


class Records:
    """The records of a work folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "state.json"
        self.platform: Record | None = None
        self.steps: dict[str, Record] = {}
        if self.path.is_file():
            self._load()

    def _load(self) -> None:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["kind"] != SCHEMA:
                raise ValueError(f"expected {SCHEMA!r}, found {data['kind']!r}")
            self.platform, self.steps = data["platform"], dict(data["steps"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.path}: expected the state of an earlier run, found none: {error}. Remove it, or name "
                "another --work"
            ) from error

    def settle(self, platform: Record) -> None:
        """Belong to this platform. Raises InputError when the records are another's."""
        mine = self.platform
        if mine is not None and identity(mine) != identity(platform):
            raise InputError(
                f"{self.path}: the records are of {' '.join(identity(mine))}, this is "
                f"{' '.join(identity(platform))}. Name another --work"
            )
        self.platform = platform
        self.save()

    def put(self, key: str, record: Record) -> None:
        """Keep a record and write all to the disk."""
        self.steps[key] = record
        self.save()

    def save(self) -> None:
        """Write the file at once."""
        data = {"kind": SCHEMA, "platform": self.platform, "steps": self.steps}
        write_atomic(self.path, (json.dumps(data, indent=1) + "\n").encode())

    def is_done(self, key: str) -> bool:
        """Whether the step was carried out."""
        return self.steps.get(key, {}).get("status") == DONE

    def is_settled(self, key: str, again: bool) -> bool:
        """Whether the step need not be tried; `again` tries failed ones once more."""
        status = self.steps.get(key, {}).get("status")
        return status == DONE or (status == FAILED and not again)

    def longest(self, kind: str) -> float:
        """Seconds of the longest step of a kind so far: what the next one must be expected to need."""
        seconds = [r["seconds"] for r in self.steps.values() if r["kind"] == kind and r["status"] == DONE]
        return max(seconds, default=FIRST_GUESS)


def identity(platform: Record) -> tuple[str, str, str]:
    """What makes a platform another one."""
    device = platform["device"]
    return f"TensorRT {platform['tensorrt']}", str(device["gpu"]), str(device["compute_capability"])


@dataclass
class Budget:
    """The time that is left for steps; `seconds` None: no end."""

    seconds: float | None
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def left(self) -> float:
        """Seconds; infinite without an end."""
        return float("inf") if self.seconds is None else self.seconds - (self.clock() - self.started)
