"""The figure of lint_matrix.py: a fault, or a promise that is missing, makes it less than full."""

from __future__ import annotations

import json
from pathlib import Path

import lint_matrix
import onnx
import pytest
import tiny_bundle
from onnx import helper

from tofe_export.bundle import Bundle

REDUCED = "0.01g-scatter-fp32-b1"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle.write_bundle(tmp_path / "bundle", dynamic=True)


def test_a_clean_bundle(bundle: Path) -> None:
    row = lint_matrix.check(Bundle.open(bundle))
    assert (row["variants"], row["graphs"]) == (5, 7)  # two of them have a probe
    # static fp32: three graphs on five targets; fp16: three on four; the dynamic one as the manifest says
    assert row["checks"] == 3 * 5 + 3 * 4 + 5
    assert row["clean"] == row["checks"] - 1  # 10.3 computes dynamic sizes wrongly
    assert row["errors"] == ["variants/dense-fp32-bdyn.onnx on trt-10.3: dynamic-shape at images"]
    assert (row["static_fp32"], row["static_fp32_on_all"]) == (2, 2)
    assert not lint_matrix.is_clean(row)


def test_a_fault_in_one_graph(bundle: Path) -> None:
    path = bundle / f"variants/{REDUCED}.probe.onnx"
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "ScatterND")
    node.attribute.append(helper.make_attribute("reduction", "none"))
    onnx.save(model, path)
    row = lint_matrix.check(Bundle.open(bundle))
    assert f"variants/{REDUCED}.probe.onnx on trt-10.3: scatter-reduction at {node.name}" in row["errors"]
    assert (row["static_fp32"], row["static_fp32_on_all"]) == (2, 1)


def test_a_static_variant_that_is_not_meant_for_all(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for variant in manifest["variants"]:
        if variant["name"] == REDUCED:
            variant["targets"] = ["8.6"]
        if variant["name"].endswith("bdyn"):
            variant["targets"] = []
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    row = lint_matrix.check(Bundle.open(bundle))
    assert row["errors"] == []
    assert row["for_no_target"] == ["dense-fp32-bdyn"]
    assert (row["static_fp32"], row["static_fp32_on_all"]) == (2, 1)
    assert not lint_matrix.is_clean(row)


def test_nothing_checked_is_not_clean() -> None:
    empty = {"clean": 0, "checks": 0, "static_fp32": 0, "static_fp32_on_all": 0}
    assert not lint_matrix.is_clean(empty)
    full = {"clean": 9, "checks": 9, "static_fp32": 1, "static_fp32_on_all": 1}
    assert lint_matrix.is_clean(full)


def test_the_table_sums() -> None:
    rows = [
        {"model": name, "variants": 2, "graphs": 3, "checks": 9, "clean": 9, "static_fp32": 1}
        | {"static_fp32_on_all": 1}
        for name in ("a", "b")
    ]
    assert lint_matrix.table(rows).splitlines()[-1] == "| all | 4 | 6 | 18 | 18 | 2 | 2 |"
