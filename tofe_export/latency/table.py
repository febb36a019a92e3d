"""The file that holds a device's latencies, and whether it speaks of the model at hand.

One table is about one backbone on one machine in one way of measuring; each entry of it is one image size,
lowering, precision and batch. Latency depends on shapes and not on weights, so a table fits every model with
the same shapes: fine-tunes, other seeds, another number of classes. `Entry.require` compares all that
matters, and refuses the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from tofe_export.budget import Cost
from tofe_export.errors import InputError, UsageError
from tofe_export.fields import Fields
from tofe_export.files import write_atomic

KIND = "tofe-export latency table 1"
_CLASSES_ONLY = (
    "head_macs",
    "head_token_macs",
    "head_prefix_macs",
)  # another head is nothing beside the blocks

_OF_THE_IMAGE = ("tokens", "stem_macs")  # these differ between image sizes of one model

Facts = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """Latency with `keep` tokens in every stage, as a share of the dense model's in the same rounds."""

    keep: int
    share: float
    low: float  # 95 % interval of the share
    high: float | None  # None: too few rounds for an interval
    rounds: int

    @classmethod
    def read(cls, data: Fields) -> Step:
        """Check and build. Raises ValueError."""
        step = cls(
            keep=data.integer("keep", least=1),
            share=data.number("share"),
            low=data.number("low"),
            high=data.optional("high", data.number),
            rounds=data.integer("rounds", least=1),
        )
        data.done()
        if step.share <= 0:
            raise ValueError(f"{data.place('share')}: expected a share above 0, found {step.share}")
        return step


@dataclass(frozen=True)
class Entry:
    """What was measured of one image size, lowering, precision and batch."""

    image_size: tuple[int, int]  # height, width in pixels
    lowering: str
    precision: str
    batch: int
    heads: int  # attention heads per block
    cost: Cost
    dense_ms: float  # median latency of the dense model, per run of `batch` images
    noise: float  # how far the dense model differed from itself: 0.03 for 3 %
    steps: tuple[Step, ...]  # by increasing keep

    @property
    def key(self) -> tuple[tuple[int, int], str, str, int]:
        """What tells entries of one table apart."""
        return self.image_size, self.lowering, self.precision, self.batch

    @property
    def name(self) -> str:
        """For people: "224x224, scatter, fp32, batch 1"."""
        height, width = self.image_size
        return f"{height}x{width}, {self.lowering}, {self.precision}, batch {self.batch}"

    def require(self, cost: Cost, heads: int, source: Path | str) -> None:
        """Raise InputError unless a model of these shapes has the latencies of this entry."""
        ours, theirs = (_shapes(c) | {"heads": h} for c, h in ((self.cost, self.heads), (cost, heads)))
        if differing := [name for name, value in ours.items() if theirs[name] != value]:
            found = "; ".join(f"{name}: {ours[name]} there, {theirs[name]} here" for name in differing)
            raise InputError(
                f"{source} was measured on a model of other shapes ({found}). Measure this one: "
                "tofe-export advise --model NAME --out TABLE"
            )

    @classmethod
    def read(cls, data: Fields) -> Entry:
        """Check and build. Raises ValueError."""
        size = data.integers("image_size")
        if len(size) != 2:
            raise ValueError(f"{data.place('image_size')}: expected [height, width], found {list(size)}")
        entry = cls(
            image_size=(size[0], size[1]),
            lowering=data.text("lowering", ("scatter", "concat")),
            precision=data.text("precision"),
            batch=data.integer("batch", least=1),
            heads=data.integer("heads", least=1),
            cost=Cost.from_json(data.get("cost")),
            dense_ms=data.number("dense_ms"),
            noise=data.number("noise"),
            steps=tuple(Step.read(item) for item in data.children("steps")),
        )
        data.done()
        _check(entry, data)
        return entry


@dataclass(frozen=True)
class Table:
    """A latency table. `machine` and `settings` are those of `bench --json`."""

    backbone: str  # timm's name
    created: str  # ISO 8601, UTC
    machine: Mapping[str, Any]
    settings: Mapping[str, Any]
    entries: tuple[Entry, ...]

    @classmethod
    def load(cls, path: Path) -> Table:
        """Read a table. Raises InputError: not there, not JSON, not of this kind, or damaged."""
        try:
            data = Fields(json.loads(path.read_text(encoding="utf-8")), "")
            data.text("kind", (KIND,))
            return cls(
                backbone=data.text("backbone"),
                created=data.text("created"),
                machine=data.mapping("machine"),
                settings=data.mapping("settings"),
                entries=tuple(Entry.read(item) for item in data.children("entries")),
            )
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"{path}: expected a latency table ({KIND}), found: {error}. Make one with: tofe-export "
                "advise --model NAME --out TABLE, or on a device with: tofe-export bench LADDER --table TABLE"
            ) from error

    def to_json(self) -> Facts:
        """What the file holds."""
        entries = [asdict(entry) | {"cost": entry.cost.to_json()} for entry in self.entries]
        return {"kind": KIND, **{k: v for k, v in vars(self).items() if k != "entries"}, "entries": entries}

    def save(self, path: Path) -> None:
        """Write the file. Raises WriteError."""
        write_atomic(path, (json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n").encode())

    def joined(self, newer: Table, path: Path | str) -> Table:
        """This table with the entries of another run, which replace those of the same key.

        Raises UsageError unless both are of one model, machine and way of measuring.
        """
        self._same({"backbone": self.backbone}, {"backbone": newer.backbone}, path, "another model")
        for entry in newer.entries[:1]:
            self.require_model(entry.cost, entry.heads, path)
        for part in ("identity", "mode"):
            before, here = (dict(table.machine.get(part, {})) for table in (self, newer))
            self._same(before, here, path, "another machine, or this one in another mode")
        self._same(self.settings, newer.settings, path, "another way of measuring")
        measured = {entry.key for entry in newer.entries}
        kept = (entry for entry in self.entries if entry.key not in measured)
        return newer.with_entries((*kept, *newer.entries))

    def require_model(self, cost: Cost, heads: int, path: Path | str) -> None:
        """Raise UsageError unless the entries are of such a model, whatever their image size."""
        for entry in self.entries[:1]:
            there, here = (_shapes(c) | {"heads": h} for c, h in ((entry.cost, entry.heads), (cost, heads)))
            same_size = {name: there[name] for name in _OF_THE_IMAGE}
            self._same(there, here | same_size, path, "another model")

    def with_entries(self, entries: Iterable[Entry]) -> Table:
        """The same with these entries, in order."""
        return replace(self, entries=tuple(sorted(entries, key=lambda entry: entry.key)))

    def _same(self, before: Mapping[str, Any], here: Mapping[str, Any], path: Path | str, what: str) -> None:
        if differing := [key for key in {**before, **here} if before.get(key) != here.get(key)]:
            found = "; ".join(f"{key}: {before.get(key)} there, {here.get(key)} now" for key in differing)
            raise UsageError(f"{path} is a table of {what} ({found}). Write this one to another file")


def find_entries(
    entries: Sequence[Entry],
    source: Path | str,
    *,
    image_sizes: Sequence[tuple[int, int]] = (),
    lowerings: Sequence[str] = (),
    precisions: Sequence[str] = (),
    batches: Sequence[int | str] = (),
) -> list[Entry]:
    """The entries that meet every filter given. Raises InputError that lists what there is."""
    filters: dict[str, Sequence[object]] = {
        "image_size": image_sizes,
        "lowering": lowerings,
        "precision": precisions,
        "batch": batches,
    }
    for name, wanted in filters.items():
        held = {getattr(entry, name) for entry in entries}
        if missing := [value for value in wanted if value not in held]:
            raise InputError(
                f"{source} has nothing for {name.replace('_', ' ')} {', '.join(map(_shown, missing))}; it "
                f"has {_names(entries)}. Measure that too: tofe-export advise, or bench --table on a device"
            )
    found = [
        entry
        for entry in entries
        if all(not wanted or getattr(entry, name) in wanted for name, wanted in filters.items())
    ]
    if not found:
        raise InputError(f"{source} has no entry that meets all filters; it has {_names(entries)}")
    return found


def _names(entries: Sequence[Entry]) -> str:
    return "; ".join(entry.name for entry in entries) or "no entries"


def _shown(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _shapes(cost: Cost) -> Facts:
    return {name: value for name, value in vars(cost).items() if name not in _CLASSES_ONLY}


def _check(entry: Entry, data: Fields) -> None:
    """What no single value shows."""
    counts = [step.keep for step in entry.steps]
    if len(counts) < 2 or any(a >= b for a, b in pairwise(counts)) or counts[-1] > entry.cost.tokens:
        raise ValueError(
            f"{data.place('steps')}: expected two or more increasing keep counts up to {entry.cost.tokens}, "
            f"found {counts}"
        )
    if entry.dense_ms <= 0 or entry.noise < 0:
        raise ValueError(f"{data.place('dense_ms')}: expected a time above 0 and noise of at least 0")
