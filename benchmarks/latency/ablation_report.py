"""The tables of `rewrites.py` and `rejected.py` for docs/performance.md, which `report.py` puts in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from latency.ablation import in_words

Facts = Mapping[str, Any]


def rewrites_table(data: Facts) -> Iterator[str]:
    """By how much each rewrite makes a graph faster: alone, and as the last one of all."""
    yield "| graph | batch | rewrite | alone | left out | verdict |"
    yield "|---|--:|---|--:|--:|---|"
    for record in data["groups"]:
        for row in record["rows"]:
            yield (
                f"| {record['case']} | {record['batch']} | {row['rewrite']} | {in_words(row['alone'])} "
                f"| {in_words(row['left_out'])} | {row['left_out']['verdict']} |"
            )
        yield (
            f"| {record['case']} | {record['batch']} | *all together* | {in_words(record['together'])} | "
            f"| {record['together']['verdict']} |"
        )


def rejected_table(data: Facts) -> Iterator[str]:
    """What each candidate would bring on top of all that is exported, beside what was expected."""
    yield "| candidate | graph | batch | brings | verdict | expected |"
    yield "|---|---|--:|--:|---|---|"
    names = dict.fromkeys(row["rewrite"] for record in data["groups"] for row in record["rows"])
    for name in names:
        for record in data["groups"]:
            for row in (row for row in record["rows"] if row["rewrite"] == name):
                yield (
                    f"| {name} | {record['case']} | {record['batch']} | {in_words(row['brings'])} "
                    f"| {row['brings']['verdict']} | {row['expected']} |"
                )
