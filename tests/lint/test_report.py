"""Reports: one line per fault for people, everything for machines."""

from __future__ import annotations

from dataclasses import replace

from tofe_export.lint.findings import Finding, ordered
from tofe_export.lint.report import SHOWN, Checked, cell, details, rows, to_json
from tofe_export.lint.targets import parse_target

OLD, NEW = parse_target("trt-8.6"), parse_target("trt-10.3")
ERROR = Finding(
    "error", "a", "Unique", "operator", "Unique is not supported", "a table", "exact", "do without"
)
ADVICE = replace(ERROR, severity="advice", rule="int64-slice", node="s")


def test_cells_count_errors_and_warnings() -> None:
    warning = replace(ERROR, severity="warning")
    assert cell([]) == "ok"
    assert cell([ADVICE]) == "ok"
    assert cell([warning]) == "ok, 1 warning"
    assert cell([ERROR, ERROR, warning, warning]) == "2 errors, 2 warnings"


def test_a_graph_without_a_target_has_dashes() -> None:
    headers, cells = rows([Checked("one", "1", {OLD: [], NEW: [ERROR]}), Checked("two", "2", {})])
    assert headers == ["graph", "trt-8.6", "trt-10.3"]
    assert cells == [["one", "ok", "1 error"], ["two", "-", "-"]]


def test_one_fault_of_two_targets_is_one_entry() -> None:
    found = {OLD: [ERROR], NEW: [replace(ERROR, source="another table", evidence="derived")]}
    assert details(Checked("one", "1", found)).split("\n") == [
        "one",
        "  error   operator, all targets: a (Unique)",
        "          Unique is not supported",
        "          mend: do without",
        "          source: a table [exact]; another table [derived]",
    ]


def test_nodes_of_one_fault_stand_together_and_are_limited() -> None:
    many = [replace(ERROR, node=f"n{i}") for i in range(SHOWN + 3)]
    text = details(Checked("one", "1", {OLD: many, NEW: []}))
    assert "error   operator, trt-8.6: n0 (Unique), n1 (Unique)" in text
    assert "and 3 more" in text


def test_faults_of_one_rule_are_limited() -> None:
    many = [replace(ERROR, message=f"message {i}") for i in range(SHOWN + 2)]
    text = details(Checked("one", "1", {OLD: many}))
    assert f"message {SHOWN - 1}" in text
    assert f"message {SHOWN}\n" not in text
    assert "operator: 2 more faults like these" in text


def test_a_clean_graph_has_no_details() -> None:
    assert details(Checked("one", "1", {OLD: []})) == ""


def test_machines_get_everything() -> None:
    data = to_json([Checked("one", "1", {OLD: [ERROR, ADVICE]}), Checked("two", "2", {OLD: [ADVICE]})])
    assert data["clean"] is False
    first, second = data["graphs"]
    assert (first["clean"], second["clean"]) == (False, True)
    target = first["targets"]["trt-8.6"]
    assert (target["error"], target["warning"], target["advice"]) == (1, 0, 1)
    assert target["findings"][0] == vars(ERROR)


def test_errors_come_first() -> None:
    assert ordered([ADVICE, ERROR]) == [ERROR, ADVICE]
