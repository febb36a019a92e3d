"""What was measured so far, in one JSON file that grows group by group, so that a run may be stopped.

A record belongs to (case, batch, threads, provider, sides) and to the sources of its sides: the same group
made from other sources is measured again. A file of another machine, or of this one in another mode, is
refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import machine

from tofe_export.bench import machine as bench_machine

Facts = dict[str, Any]
_KEY = ("case", "batch", "threads", "provider", "names")


class Records:
    """The results file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.here = bench_machine.facts()
        self.data: Facts = {"kind": "tofe-export latency 1", "groups": [], "bare": []}
        if path.exists():
            self.data = json.loads(path.read_text(encoding="utf-8"))
            for part in ("identity", "mode"):
                if self.data["bench_machine"][part] != self.here[part]:
                    raise SystemExit(
                        f"{path} was measured on another machine, or in another mode ({part} differs): "
                        "name another file with --out"
                    )

    def find(self, group: Mapping[str, Any]) -> Facts | None:
        """The record of a group that was measured with these sources."""
        keys = (*_KEY, "made_from")
        for record in self.data["groups"]:
            if all(record[key] == group[key] for key in keys):
                found: Facts = record
                return found
        return None

    def add(self, record: Facts) -> None:
        """Keep a group in place of an older one, and write the file."""
        same = [all(old[key] == record[key] for key in _KEY) for old in self.data["groups"]]
        kept = [old for old, is_same in zip(self.data["groups"], same, strict=True) if not is_same]
        self.data["groups"] = [*kept, record]
        self._write()

    def add_bare(self, rows: Sequence[Facts]) -> None:
        """Keep the check by a bare loop in place of the last one of these cases."""
        keys = [(row["case"], row["batch"], row["side"], row["threads"]) for row in rows]
        old = [
            row
            for row in self.data["bare"]
            if (row["case"], row["batch"], row["side"], row["threads"]) not in keys
        ]
        self.data["bare"] = [*old, *rows]
        self._write()

    def _write(self) -> None:
        self.data["machine"], self.data["bench_machine"] = machine.facts(), self.here
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(
            json.dumps(self.data, indent=None, separators=(",", ":")) + "\n", encoding="utf-8"
        )
