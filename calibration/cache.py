"""What calibration measured, kept beside the graphs: `<bundle>/calibration/<kind>-<key12>.json`.

A file is found by everything that its numbers depend on, never by its name alone, so a changed graph, picture
list, preprocessing or method finds nothing and is measured anew. A file that was damaged or edited is
refused, not measured again in silence: somebody may rely on what it said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tofe_export.errors import BundleError
from tofe_export.files import sha256_bytes, write_atomic, writing

FOLDER = "calibration"
SCHEMA = 2
_KEYS = {"schema", "kind", "key", "created", "values", "sha256"}


@dataclass(frozen=True)
class Record:
    """One file: what its numbers depend on, when they were made (ISO 8601, UTC), and the numbers."""

    file: str
    """Below the bundle."""
    key: Mapping[str, Any]
    created: str
    values: Mapping[str, Any]


class Cache:
    """The calibration files of a bundle; `root` is its folder, or that of a bundle in the making.

    `shown` is the bundle that the user knows, for messages.
    """

    def __init__(self, root: Path, shown: Path | None = None) -> None:
        self.root, self.shown = root, shown or root

    def get(self, kind: str, key: Mapping[str, Any]) -> Record | None:
        """What was measured under exactly this key. Raises BundleError for a damaged file."""
        relative = _file(kind, key)
        path = self.root / relative
        if not path.exists():
            return None
        record = self._read(relative, kind)
        if record.key != _plain(key):
            raise self._damaged(relative, "another key than its name says")
        return record

    def latest(self, kind: str, part: Mapping[str, Any]) -> Record | None:
        """The newest of the files whose key has all of `part`. Raises BundleError for a damaged file."""
        wanted = _plain(part)
        fitting = [
            record
            for record in self._all(kind)
            if all(record.key.get(name) == value for name, value in wanted.items())
        ]
        return max(fitting, key=lambda record: (record.created, record.file), default=None)

    def put(self, kind: str, key: Mapping[str, Any], values: Mapping[str, Any]) -> Record:
        """Write a file at once or not at all. Raises WriteError."""
        relative, created = _file(kind, key), datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = {
            "schema": SCHEMA,
            "kind": kind,
            "key": _plain(key),
            "created": created,
            "values": _plain(values),
        }
        path = self.root / relative
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content | {"sha256": _checksum(content)}, indent=1, allow_nan=False)
        write_atomic(path, text.encode() + b"\n")
        return Record(relative, content["key"], created, content["values"])

    def _all(self, kind: str) -> Iterator[Record]:
        for path in sorted((self.root / FOLDER).glob(f"{kind}-*.json")):
            yield self._read(f"{FOLDER}/{path.name}", kind)

    def _read(self, relative: str, kind: str) -> Record:
        try:
            data = json.loads((self.root / relative).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(relative, f"no JSON ({error})") from error
        if not isinstance(data, dict) or data.keys() != _KEYS:
            raise self._damaged(relative, "other fields than such a file has")
        if data["schema"] != SCHEMA or data["kind"] != kind:
            raise self._damaged(relative, f"{data['kind']!r} of schema {data['schema']!r}")
        if data.pop("sha256") != _checksum(data):
            raise self._damaged(relative, "content that does not fit its checksum: it was damaged or edited")
        return Record(relative, data["key"], data["created"], data["values"])

    def _damaged(self, relative: str, found: str) -> BundleError:
        return BundleError(
            f"{self.shown / relative}: expected what a calibration measured, found {found}. Delete this file "
            "to measure again"
        )


def _file(kind: str, key: Mapping[str, Any]) -> str:
    return f"{FOLDER}/{kind}-{sha256_bytes(_text(_plain(key)))[:12]}.json"


def _checksum(content: Mapping[str, Any]) -> str:
    return sha256_bytes(_text(content))


def _text(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, allow_nan=False).encode()


def _plain(content: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as JSON has it
    return json.loads(json.dumps(content, allow_nan=False))
