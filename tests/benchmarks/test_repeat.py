"""Two runs of `bench` side by side, on figures that the tests make."""

from __future__ import annotations

from typing import Any

import pytest
from latency.repeat import compare, report, worst


def run(**ratios: float) -> dict[str, Any]:
    return {
        "comparisons": [
            {"variant": {"name": name}, "speedup": {"value": value}, "noise": {"value": 1.0}}
            for name, value in ratios.items()
        ]
    }


def test_the_second_run_is_compared_with_the_first() -> None:
    rows = compare(run(a=2.0, b=1.5), run(b=1.5, a=1.9), batch=8)
    assert [(row["variant"], row["ratios"]) for row in rows] == [("a", [2.0, 1.9]), ("b", [1.5, 1.5])]
    assert worst(rows) == pytest.approx(0.05)
    assert "worst: 5.0%, NOT within 3%" in report(rows)
    assert "worst: 0.0%, within 3%" in report(rows[1:])


def test_runs_of_different_variants_are_refused() -> None:
    with pytest.raises(SystemExit, match="expected the same variants"):
        compare(run(a=2.0), run(b=2.0), batch=1)
