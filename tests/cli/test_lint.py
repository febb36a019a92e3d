"""`tofe-export lint`: a bundle by its targets, any ONNX file for all, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

from tofe_export.cli import host, main

MakeBundle = Callable[..., Path]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["lint", *map(str, arguments)])


def write(path: Path, operator: str = "Relu", **attributes: Any) -> Path:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy")
    node = helper.make_node(operator, ["x"], ["y"], "the node", **attributes)
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(np.zeros(1), "unused")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_clean_file_is_ok_on_all_targets(tmp_path: Path) -> None:
    result = run(write(tmp_path / "model.onnx"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.split("\n")[0].split() == [
        "graph",
        *("trt-8.6", "trt-10.3", "trt-10.13", "trt-10.16", "trt-11.4"),
    ]
    assert result.stdout.split("\n")[2].split() == ["model.onnx", *["ok"] * 5]


def test_an_error_is_the_verdict_and_says_all(tmp_path: Path) -> None:
    result = run(write(tmp_path / "model.onnx", "Unique"), "--target", "trt-8.6,jetpack-6.2")
    assert result.exit_code == 1
    for said in (
        "error   operator, all targets: the node (Unique)",
        "mend: ",
        "source: onnx-tensorrt",
        "[exact]",
    ):
        assert said in result.stdout
    assert "1 of 1 graphs have errors: model.onnx" in result.stderr


def test_targets_may_repeat_and_all_means_all(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    header = run(path, "--target", "trt-10.3", "--target", "jetpack-6.2,8.6").stdout.split("\n")[0]
    assert header.split() == ["graph", "trt-8.6", "trt-10.3"]
    assert len(run(path, "--target", "all").stdout.split("\n")[0].split()) == 6


def test_an_unknown_target_is_a_usage_error(tmp_path: Path) -> None:
    result = run(write(tmp_path / "model.onnx"), "--target", "jetpack-5")
    assert result.exit_code == 2
    assert "JetPack 5 has TensorRT 8.4 or 8.5" in result.stderr


def test_a_bundle_is_checked_for_its_own_targets(make_bundle: MakeBundle) -> None:
    result = run(make_bundle(), "--json", "-")
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert data["clean"] is True
    assert {g["name"]: list(g["targets"]) for g in data["graphs"]} == {
        "dense-fp32-b1": ["trt-8.6", "trt-10.3"],
        "0.01g-scatter-fp32-b1": ["trt-8.6", "trt-10.3"],
    }


def test_variants_can_be_picked_and_targets_named(make_bundle: MakeBundle) -> None:
    result = run(make_bundle(), "--lowering", "scatter", "--target", "trt-11.4")
    assert result.exit_code == 0
    assert "0.01g-scatter-fp32-b1  ok" in result.stdout
    assert "dense" not in result.stdout
    assert "trt-8.6" not in result.stdout


def test_a_variant_for_no_tensorrt_is_named(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["variants"][1]["targets"] = []
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    result = run(bundle)
    assert result.exit_code == 0
    assert "not checked: 0.01g-scatter-fp32-b1" in result.stderr


def test_a_changed_graph_is_damage(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    write(bundle / "variants" / "dense-fp32-b1.onnx")
    result = run(bundle)
    assert result.exit_code == 4
    assert "found sha256" in result.stderr
    assert "was changed" in result.stderr


def test_a_missing_graph_is_damage(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (bundle / "variants" / "dense-fp32-b1.onnx").unlink()
    result = run(bundle)
    assert result.exit_code == 4
    assert "no such file" in result.stderr


@pytest.mark.parametrize("content", [b"", b"no graph", b"PK\x03\x04"])
def test_what_is_no_onnx_file_is_bad_input(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    result = run(path)
    assert result.exit_code == 3
    assert "expected an ONNX model" in result.stderr


def test_a_missing_file_is_bad_input_and_a_missing_bundle_is_not_a_bundle(tmp_path: Path) -> None:
    assert run(tmp_path / "model.onnx").exit_code == 3
    assert run(tmp_path / "bundle").exit_code == 4


def test_filters_need_a_bundle(tmp_path: Path) -> None:
    result = run(write(tmp_path / "model.onnx"), "--budget", "2.0")
    assert result.exit_code == 2
    assert "is one graph" in result.stderr


def test_without_onnx_the_pip_line_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "model.onnx")
    monkeypatch.setattr(host, "find_spec", lambda name: None)
    result = run(path)
    assert result.exit_code == 5
    assert "pip install 'tofe-export[graph]'" in result.stderr


def test_the_report_can_be_written_to_a_file(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    assert run(write(tmp_path / "model.onnx", "Unique"), "--json", target).exit_code == 1
    data = json.loads(target.read_text())
    findings = data["graphs"][0]["targets"]["trt-10.3"]["findings"]
    assert findings[0]["rule"] == "operator"
    assert set(findings[0]) == {
        *("severity", "node", "operator", "rule", "message", "source", "evidence", "mend"),
    }
