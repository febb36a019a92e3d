"""The tables of what rewrites bring, from records that the tests make."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latency.ablation_report import rejected_table, rewrites_table
from latency.report import ablations


def brings(value: float, verdict: str) -> dict[str, Any]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "verdict": verdict}


def record(case: str, batch: int, *names: str) -> dict[str, Any]:
    rows = [
        {
            "rewrite": name,
            "expected": f"what {name} should bring",
            "alone": brings(1.02, "faster"),
            "left_out": brings(1.04, "faster"),
            "brings": brings(0.99, "no difference shown"),
        }
        for name in names
    ]
    return {"case": case, "batch": batch, "rows": rows, "together": brings(1.1, "faster")}


def test_each_rewrite_has_its_row() -> None:
    lines = list(
        rewrites_table({"groups": [record("vit concat", 1, "a", "b"), record("vit concat", 8, "a")]})
    )
    assert len(lines) == 2 + 3 + 2
    assert lines[2] == "| vit concat | 1 | a | +2.0 % (+1.0 to +3.0) | +4.0 % (+3.0 to +5.0) | faster |"
    assert lines[-1].startswith("| vit concat | 8 | *all together* | +10.0 %")


def test_a_candidate_has_its_rows_together_and_what_was_expected() -> None:
    lines = list(rejected_table({"groups": [record("x", 1, "a", "b"), record("y", 8, "a")]}))
    assert [line.split("|")[1:4] for line in lines[2:]] == [
        [" a ", " x ", " 1 "],
        [" a ", " y ", " 8 "],
        [" b ", " x ", " 1 "],
    ]
    assert lines[2].endswith("| -1.0 % (-2.0 to +0.0) | no difference shown | what a should bring |")


def test_tables_are_made_of_what_lies_beside_the_latencies(tmp_path: Path) -> None:
    assert ablations(tmp_path) == {}
    (tmp_path / "rejected.json").write_text(json.dumps({"groups": [record("x", 1, "a")]}))
    assert list(ablations(tmp_path)) == ["rejected"]
