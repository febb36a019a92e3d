"""The table's file: written and read alike, strict about what it holds, and about whom it speaks of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tofe_export.budget import Cost
from tofe_export.errors import InputError, UsageError
from tofe_export.latency.table import Entry, Table, find_entries


def test_a_table_comes_back_as_it_was(table: Table, tmp_path: Path) -> None:
    table.save(tmp_path / "t.json")
    assert Table.load(tmp_path / "t.json") == table


def test_an_open_interval_is_null(table: Table, entry: Entry, tmp_path: Path) -> None:
    step = replace(entry.steps[0], high=None)
    open_ended = table.with_entries([replace(entry, steps=(step, *entry.steps[1:]))])
    open_ended.save(tmp_path / "t.json")
    assert Table.load(tmp_path / "t.json").entries[0].steps[0].high is None


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(kind="tofe-export bench 1"), "kind: expected one of tofe-export latency table 1"),
        (lambda d: d["entries"][0].pop("heads"), r"entries\[0\].heads: expected this key"),
        (lambda d: d["entries"][0].update(more=1), r"entries\[0\]: unknown key 'more'"),
        (lambda d: d["entries"][0]["steps"].reverse(), "expected two or more increasing keep counts"),
        (lambda d: d["entries"][0].update(steps=d["entries"][0]["steps"][:1]), "expected two or more"),
        (lambda d: d["entries"][0]["steps"][-1].update(keep=197), "keep counts up to 196"),
        (lambda d: d["entries"][0]["steps"][0].update(share=0), "expected a share above 0"),
        (lambda d: d["entries"][0].update(dense_ms=-1), "expected a time above 0"),
        (lambda d: d["entries"][0].update(image_size=[224]), r"expected \[height, width\]"),
        (lambda d: d["entries"][0]["cost"].pop("width"), "cost: missing width"),
    ],
)
def test_a_damaged_table_is_refused(
    table: Table, tmp_path: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    table.save(tmp_path / "t.json")
    edit(tmp_path / "t.json", change)
    with pytest.raises(InputError, match=message):
        Table.load(tmp_path / "t.json")


@pytest.mark.parametrize("content", [None, b"", b"[]", b"\xff\xfe"])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(InputError, match="expected a latency table"):
        Table.load(tmp_path / "t.json")


def test_a_model_of_the_same_shapes_fits(entry: Entry, cost: Cost) -> None:
    entry.require(cost, 6, "t.json")
    entry.require(replace(cost, head_macs=3840), 6, "t.json")  # a fine-tune with ten classes


@pytest.mark.parametrize(
    ("changes", "heads", "message"),
    [
        ({"width": 768}, 6, "width: 384 there, 768 here"),
        ({}, 12, "heads: 6 there, 12 here"),
        ({"locations": (3, 6)}, 6, "locations"),
        ({"selector": "dynamicvit"}, 6, "selector"),
        ({"tokens": 576}, 6, "tokens: 196 there, 576 here"),
        ({"last_rows": 1}, 6, "last_rows"),
    ],
)
def test_other_shapes_are_refused(
    entry: Entry, cost: Cost, changes: dict[str, Any], heads: int, message: str
) -> None:
    with pytest.raises(InputError, match=f"measured on a model of other shapes .*{message}"):
        entry.require(replace(cost, **changes), heads, "t.json")


def test_entries_are_found_by_what_they_are(table: Table) -> None:
    (found,) = find_entries(table.entries, "t.json", batches=[8], lowerings=["scatter"])
    assert found.batch == 8
    assert find_entries(table.entries, "t.json") == list(table.entries)


def test_entries_that_are_not_there_are_named(table: Table) -> None:
    with pytest.raises(
        InputError, match=r"nothing for batch 32; it has 224x224, scatter, fp32, batch 1; 224"
    ):
        find_entries(table.entries, "t.json", batches=[1, 32])
    with pytest.raises(InputError, match="nothing for image size 384x384"):
        find_entries(table.entries, "t.json", image_sizes=[(384, 384)])


def test_no_entry_meets_all_filters(table: Table, entry: Entry) -> None:
    mixed = (entry, replace(entry, batch=8, lowering="concat"))
    with pytest.raises(InputError, match="no entry that meets all filters"):
        find_entries(mixed, "t.json", batches=[8], lowerings=["scatter"])


def test_a_second_run_replaces_and_adds(table: Table, entry: Entry) -> None:
    newer = table.with_entries([replace(entry, dense_ms=45.0), replace(entry, batch=32)])
    joined = table.joined(newer, "t.json")
    assert [(e.batch, e.dense_ms) for e in joined.entries] == [(1, 45.0), (8, 400.0), (32, 50.0)]


def test_another_image_size_is_the_same_model(table: Table, entry: Entry, cost: Cost) -> None:
    large = replace(
        entry, image_size=(384, 384), cost=replace(cost, tokens=576, stem_macs=9 * cost.stem_macs)
    )
    assert len(table.joined(table.with_entries([large]), "t.json").entries) == 3


def test_another_structure_is_another_model(table: Table, entry: Entry, cost: Cost) -> None:
    other = replace(entry, cost=replace(cost, approximator="block"))
    with pytest.raises(UsageError, match=r"of another model \(approximator: bottleneck there, block now\)"):
        table.joined(table.with_entries([other]), "t.json")
    with pytest.raises(UsageError, match=r"of another model \(heads: 6 there, 12 now\)"):
        table.require_model(cost, 12, "t.json")
    table.with_entries([]).require_model(cost, 12, "t.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "deit_tiny_patch16_224"}, "of another model .backbone: deit_small"),
        (
            {"machine": {"identity": {"processor": "Other"}}},
            "of another machine.*Example CPU there, Other now",
        ),
        ({"settings": {"threads": 1}}, "of another way of measuring"),
    ],
)
def test_runs_that_do_not_belong_together(table: Table, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        table.joined(replace(table, **changes), "t.json")
