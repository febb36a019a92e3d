"""matrix.json: every row says for which targets, from where and how sure; no two contradict each other."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tofe_export.lint.findings import EVIDENCE, SEVERITIES
from tofe_export.lint.matrix import load_matrix, matrix_text
from tofe_export.lint.targets import TARGETS, parse_target
from tofe_export.lint.view import TYPES

DATA: dict[str, Any] = json.loads(matrix_text())
COLUMNS: dict[str, dict[str, type]] = {
    "opsets": {"newest": int},
    "operators": {"operator": str, "types": str},
    "constant_inputs": {"operator": str, "input": int, "what": str, "accepts": str},
    "unread_inputs": {"operator": str, "input": int, "what": str, "effect": str},
    "attributes": {"operator": str, "attribute": str, "allowed": list, "effect": str},
    "outputs": {"operator": str, "outputs": int},
}
COMMON: dict[str, type] = {"targets": str, "source": str, "evidence": str}
KEYS: dict[str, tuple[str, ...]] = {
    "opsets": (),
    "operators": ("operator",),
    "constant_inputs": ("operator", "input"),
    "unread_inputs": ("operator", "input"),
    "attributes": ("operator", "attribute"),
    "outputs": ("operator",),
}


def test_the_tables_are_those_that_are_read() -> None:
    assert set(DATA) == {"schema", "sources", *COLUMNS}
    assert DATA["schema"] == 1


@pytest.mark.parametrize("table", COLUMNS)
def test_every_row_has_its_columns_a_source_and_its_evidence(table: str) -> None:
    versions = {target.version for target in TARGETS}
    for row in DATA[table]:
        columns = COLUMNS[table] | COMMON
        assert {key: type(value) for key, value in row.items() if key != "severity"} == columns, row
        assert row.get("severity", "error") in SEVERITIES
        assert row["evidence"] in EVIDENCE
        assert row["source"].split()
        assert set(row["source"].split()) <= set(DATA["sources"])
        assert row["targets"].split()
        assert set(row["targets"].split()) <= versions


@pytest.mark.parametrize("table", COLUMNS)
def test_no_two_rows_are_about_the_same(table: str) -> None:
    seen = Counter(
        (target, *(row[key] for key in KEYS[table]))
        for row in DATA[table]
        for target in row["targets"].split()
    )
    assert [key for key, count in seen.items() if count > 1] == []


def test_every_source_is_used_and_says_where_it_is() -> None:
    used = {key for table in COLUMNS for row in DATA[table] for key in row["source"].split()}
    assert used == set(DATA["sources"])
    for source in DATA["sources"].values():
        assert set(source) == {"short", "where"}


def test_types_are_those_that_views_speak_of() -> None:
    named = {name for row in DATA["operators"] for name in row["types"].split()}
    assert named <= set(TYPES.values())


def test_exact_means_the_release_itself() -> None:
    for table in COLUMNS:
        for row in DATA[table]:
            if row["evidence"] == "exact":
                assert row["targets"] == "8.6", row  # the only target whose own table was read
            if row["evidence"] == "measured":
                assert "10.1-run" in row["source"], row


def test_every_target_has_a_newest_opset() -> None:
    matrix = load_matrix()
    assert [matrix.newest_opset(target).value["newest"] for target in TARGETS] == [17, 20, 24, 24, 24]


@pytest.mark.parametrize(
    ("operator", "target", "types"),
    [
        ("LayerNormalization", "trt-8.6", ("FP32", "FP16")),
        ("Unique", "trt-11.4", ()),
        ("Gelu", "trt-8.6", None),
        ("Attention", "trt-10.13", ()),
        ("TopK", "trt-10.3", ("FP32", "FP16", "BF16", "INT32", "INT64")),
    ],
)
def test_facts_that_the_design_relies_on(operator: str, target: str, types: tuple[str, ...] | None) -> None:
    row = load_matrix().operator(parse_target(target), operator)
    assert (row.types if row else None) == types
