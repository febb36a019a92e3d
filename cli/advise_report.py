"""What `advise` prints: whose latencies these are, one table per entry, and the recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_export.budget import printed
from tofe_export.cli import console

if TYPE_CHECKING:
    from tofe_export.latency.advise import Advice, Row
    from tofe_export.latency.table import Table

KIND = "tofe-export advice 1"


def text(table: Table, advices: Sequence[Advice]) -> str:
    """Everything for people."""
    parts = [whose(table), *(_entry_text(advice) for advice in advices)]
    return "\n\n".join(parts)


def whose(table: Table) -> str:
    """The machine that was measured, and whether it is this one."""
    identity = table.machine.get("identity", {})
    names = [identity.get(key) for key in ("board", "gpu", "processor")]
    where = ", ".join(str(name) for name in names if name) or "a machine that does not say its name"
    how = f"{table.settings.get('backend')}, {table.settings.get('provider')}"
    if threads := table.settings.get("threads"):
        how += f", {threads} threads"
    same = "this machine" if is_here(table) else "NOT this machine"
    return f"{table.backbone} on {where} ({how}), measured {table.created}: {same}."


def is_here(table: Table) -> bool:
    """Whether the table was measured on this machine, as far as the system tells."""
    from tofe_export.bench import machine

    there, here = table.machine.get("identity", {}), machine.facts()["identity"]
    keys = ["processor", "architecture", "cores", "board"]
    keys += ["gpu"] * (table.settings.get("provider") != "cpu")
    return all(there.get(key) == here[key] for key in keys)


def to_json(table: Table, advices: Sequence[Advice], source: Path | None) -> dict[str, Any]:
    """The same for machines, see docs/advise.md."""
    return {
        "kind": KIND,
        "backbone": table.backbone,
        "table": str(source) if source else None,
        "measured": table.created,
        "machine": dict(table.machine),
        "this_machine": is_here(table),
        "settings": dict(table.settings),
        "entries": [advice.to_json() for advice in advices],
    }


def _entry_text(advice: Advice) -> str:
    entry = advice.entry
    headers = ("budget, GMACs", "keep", "GMACs run", "MACs", "ms", "times as fast", "worth it")
    rows = [_row(row) for row in advice.rows]
    lines = console.table(headers, rows, right=(0, 2, 3, 4, 5))
    return f"{entry.name}: dense {entry.dense_ms:.2f} ms\n{lines}\n{advice.text}"


def _row(row: Row) -> tuple[object, ...]:
    worth = {None: "outside the table", True: "yes", False: "no, under 5 %"}[row.worth]
    return (
        printed(row.budget_gmacs),
        "/".join(map(str, row.keep)),
        printed(row.gmacs_executed),
        f"{row.mac_ratio:.2f}",
        None if row.ms is None else f"{row.ms:.2f}",
        None if row.speedup is None else f"{row.speedup:.2f}",
        worth,
    )
