"""The results file: one record per reading, readable as plain JSON, complete after every run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from accuracy.settings import Size
from tofe_export.errors import UsageError
from tofe_export.files import write_atomic

if TYPE_CHECKING:
    from accuracy.contender import Reading


class Job(NamedTuple):
    """One run."""

    arm: str
    shares: tuple[float, ...]
    """Budgets as shares of the dense cost; none for the dense model."""
    seed: int


@dataclass(frozen=True)
class Record:
    """One reading of one run."""

    arm: str
    run: tuple[float, ...]
    """The shares of the run that it comes from."""
    seed: int
    share: float | None
    mode: str
    budget_gmacs: float | None
    gmacs: float
    kept: tuple[float, ...]
    accuracy: float
    correct: str
    """Per test image, packed bits in hexadecimal, most significant first."""
    images: int
    seconds: float
    """Of the whole run."""
    more: dict[str, Any] = field(default_factory=dict)

    def hits(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Per test image, whether it was right: (n,)."""
        packed = np.frombuffer(bytes.fromhex(self.correct), dtype=np.uint8)
        return np.unpackbits(packed)[: self.images].astype(np.bool_)


def record_of(job: Job, share: float | None, reading: Reading, seconds: float) -> Record:
    """A reading as plain data."""
    return Record(
        arm=job.arm,
        run=job.shares,
        seed=job.seed,
        share=share,
        mode=reading.mode,
        budget_gmacs=reading.budget_gmacs,
        gmacs=reading.gmacs,
        kept=tuple(round(count, 3) for count in reading.kept),
        accuracy=reading.accuracy,
        correct=np.packbits(reading.correct.numpy()).tobytes().hex(),
        images=len(reading.correct),
        seconds=round(seconds, 1),
        more=reading.more,
    )


class Results:
    """Records of one size at `path`. Raises UsageError where the file belongs to other settings."""

    def __init__(self, path: Path, size: Size) -> None:
        self.path, self.size = path, size
        self.records: list[Record] = []
        if not path.exists():
            return
        content = json.loads(path.read_text())
        if content["fingerprint"] != size.fingerprint():
            raise UsageError(
                f"{path} holds results of other settings: name another file by --out, "
                "or remove it to start anew"
            )
        self.records = [record_from(item) for item in content["records"]]

    @staticmethod
    def default(size: Size) -> Path:
        """Where results lie unless said otherwise."""
        return Path(__file__).parents[1] / "results" / f"accuracy_{size.name}.json"

    def __contains__(self, job: Job) -> bool:
        return any((record.arm, record.run, record.seed) == job for record in self.records)

    def add(self, records: Sequence[Record]) -> None:
        """Take in the records of a run and write the file."""
        import machine

        self.records += records
        content = {
            "machine": machine.facts(),
            "size": self.size.name,
            "fingerprint": self.size.fingerprint(),
            "settings": self.size.to_json(),
            "records": [asdict(record) for record in self.records],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, (json.dumps(content, indent=1) + "\n").encode())


def record_from(data: dict[str, Any]) -> Record:
    """The inverse of what `Results` writes."""
    return Record(**data | {"run": tuple(data["run"]), "kept": tuple(data["kept"])})
