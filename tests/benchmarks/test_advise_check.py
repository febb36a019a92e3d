"""Predictions beside measurements, on a table and runs that the tests make up."""

from __future__ import annotations

from typing import Any

import pytest
from known_costs import DEIT_S
from latency.advise_check import report, row_of

from tofe_export.latency.table import Entry, Step

STEPS = tuple(Step(keep, 0.3 + 0.0036 * keep, 0.0, None, 20) for keep in (6, 49, 98, 196))
ENTRY = Entry((224, 224), "scatter", "fp32", 1, 6, DEIT_S, 50.0, 0.01, STEPS)


def comparison(ms: float, speedup: float, dense_ms: float = 50.0) -> dict[str, Any]:
    """What `bench --json` says of a variant with 98 tokens in every stage."""
    return {
        "variant": {"name": "v", "keep": [98, 98, 98], "latency": {"median_ms": ms}},
        "against": {"latency": {"median_ms": dense_ms}},
        "speedup": {"value": speedup, "low": speedup - 0.1, "high": speedup + 0.1},
        "noise": {"value": 1.0},
    }


def test_errors_are_of_the_prediction() -> None:
    share = 0.3 + 0.0036 * 98
    row = row_of(ENTRY, comparison(50 * share / 1.05, 1 / share))
    assert row["error"] == pytest.approx(0)
    assert row["error_ms"] == pytest.approx(0.05)
    assert row["ms_predicted"] == pytest.approx(50 * share)
    slow = row_of(ENTRY, comparison(50 * share, 1.2 / share, dense_ms=60.0))
    assert slow["error"] == pytest.approx(0.2)
    assert slow["dense_drift"] == pytest.approx(0.2)


def test_the_verdict_counts_both_errors() -> None:
    share = 0.3 + 0.0036 * 98
    good, bad = (row_of(ENTRY, comparison(50 * share * by, 1 / share)) for by in (0.96, 1.2))
    assert "within 10%" in report([good])
    assert "NOT within" not in report([good])
    assert "NOT within 10%" in report([good, bad])
