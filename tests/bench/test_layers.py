"""`bench --layers`: the runtimes' profiles summed per module and operator, with nothing hidden.

ONNX Runtime runs for real; TensorRT is a FAKE that gives every layer 0.25 ms. No figure here is a latency.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import fake_tensorrt
import pytest
import tiny_bundle
from click.testing import CliRunner, Result

from tofe_export.bench.layers import Layer, Profile, profile
from tofe_export.bench.layers_onnxruntime import read_events
from tofe_export.bench.layers_tensorrt import read_inspector
from tofe_export.bench.sides import How
from tofe_export.bundle import Bundle
from tofe_export.cli import bench_layers, main
from tofe_export.errors import UsageError

REDUCED, DENSE = "0.01g-scatter-fp32-b1", "dense-fp32-b1"
CPU = How("onnxruntime", "cpu", threads=1)
QUICK = ("--iterations", 6, "--warmup", 1, "--precision", "fp32", "--batch", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bundle.write_bundle(tmp_path / "bundle")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def kernel(name: str, operator: str, index: int, dur: int) -> dict[str, Any]:
    facts = {"op_name": operator, "node_index": str(index)}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": dur, "args": facts}


def whole(dur: int) -> dict[str, Any]:
    return {"cat": "Session", "name": "model_run", "dur": dur, "args": {}}


def made_up(*layers: Layer, whole_ms: float | None = 5.0) -> Profile:
    return Profile("v", 1, "a profile", 3, whole_ms, layers, ("stem", "blocks.0", "head"))


def test_events_are_sorted_into_runs_and_layers() -> None:
    events = [
        {"cat": "Session", "name": "session_initialization", "dur": 9_000_000, "args": {}},
        *(kernel("a", "MatMul", 0, 9000), kernel("Gelu", "Gelu", 1, 9000), whole(20000)),  # warm-up
        *(kernel("a", "MatMul", 0, 1000), kernel("Gelu", "Gelu", 1, 200), whole(1500)),
        *(kernel("a", "MatMul", 0, 3000), kernel("Gelu", "Gelu", 1, 400), whole(3700)),
    ]
    layers, runs = read_events(events, runs=2)
    assert [(one.name, one.operator, one.ms) for one in layers] == [
        ("a", "MatMul", [1.0, 3.0]),
        ("Gelu", "Gelu", [0.2, 0.4]),
    ]
    assert runs == [1.5, 3.7]


def test_nodes_of_one_name_are_told_apart() -> None:
    events = [kernel("Gelu", "Gelu", 1, 1000), kernel("Gelu", "Gelu", 2, 5000)]
    layers, _ = read_events(events, runs=1)
    assert [one.ms for one in layers] == [[1.0], [5.0]]


def test_sums_are_of_all_layers() -> None:
    one = made_up(
        Layer("c", "Add", "head", 0.5),
        Layer("a", "MatMul", "blocks.0", 2.0),
        Layer("?", "Odd", "other", 0.25),
        Layer("b", "Add", "blocks.0", 1.0),
    )
    assert one.sum_ms == 3.75
    assert [(s.name, s.ms, s.layers) for s in one.modules] == [
        ("blocks.0", 3.0, 2),
        ("head", 0.5, 1),
        ("other", 0.25, 1),  # shown, and last
    ]
    assert [(s.name, s.ms) for s in one.operators] == [("MatMul", 2.0), ("Add", 1.5), ("Odd", 0.25)]


def test_tables_stand_side_by_side() -> None:
    first = made_up(Layer("a", "MatMul", "blocks.0", 2.0))
    second = made_up(Layer("a", "MatMul", "blocks.0", 1.0), Layer("b", "TopK", "other", 1.5), whole_ms=None)
    lines = bench_layers.module_table([first, second]).splitlines()
    assert [line.split() for line in lines[2:]] == [
        ["blocks.0", "2.000", "1.000"],
        ["other", "-", "1.500"],
        ["between", "layers", "3.000", "-"],
        ["whole", "run", "5.000", "2.500"],
    ]
    many = made_up(*(Layer(str(i), f"Op{i:02}", "stem", 20.0 - i) for i in range(15)))
    assert bench_layers.operator_table([many]).splitlines()[-1].split() == ["3", "others", "21.000"]


@pytest.mark.parametrize("name", [REDUCED, DENSE])
def test_onnx_runtime_is_profiled(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    places = tmp_path / "temporary"
    places.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(places))
    bundle, seen = Bundle.open(folder), list[None]()
    found = profile(bundle, bundle.variant(name), CPU, runs=4, on_run=lambda: seen.append(None))
    assert (found.variant, found.batch, found.runs) == (name, 1, 4)
    assert len(seen) > 4  # the first ones do not count
    modules = [share.name for share in found.modules]
    assert {"stem", "blocks.0", "blocks.1", "head"} <= set(modules)
    assert ("selectors.0" in modules) == ("thaw.0" in modules) == (name == REDUCED)
    assert "other" not in modules
    assert modules.index("stem") < modules.index("blocks.0") < modules.index("head")
    assert {"Conv", "MatMul"} <= {share.name for share in found.operators}
    assert found.whole_ms is not None
    assert found.whole_ms > 0
    assert sum(share.ms for share in found.modules) == pytest.approx(found.sum_ms)
    assert not list(places.iterdir())  # profile and optimised graph are gone


def test_the_command_prints_and_keeps_the_profile(folder: Path) -> None:
    result = run("bench", folder, *QUICK, "--backend", "onnxruntime", "--layers", "--json", folder / "j.json")
    assert result.exit_code == 0, result.stderr
    assert "module, ms" in result.stdout
    assert "operator, ms" in result.stdout
    assert "ONNX Runtime's profile, medians of 30 runs" in result.stdout
    data = json.loads((folder / "j.json").read_text())
    assert [one["variant"] for one in data["layers"]] == [DENSE, REDUCED]
    for one in data["layers"]:
        assert one["sum_ms"] == pytest.approx(sum(layer["ms"] for layer in one["layers"]))
        assert one["sum_ms"] == pytest.approx(sum(share["ms"] for share in one["operators"]))


def test_without_the_option_nothing_is_profiled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tofe_export.bench.layers.profile", lambda *_: pytest.fail("profiled"))
    result = run("bench", folder, *QUICK, "--backend", "onnxruntime", "--json", "-")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["layers"] == []


def test_a_provider_that_hides_its_layers_is_refused(folder: Path) -> None:
    bundle = Bundle.open(folder)
    with pytest.raises(UsageError, match="a few opaque nodes"):
        profile(bundle, bundle.variant(DENSE), How("onnxruntime", "tensorrt"))


@pytest.mark.parametrize("version", ["8.6", "10.3", "11.4"])
def test_engines_are_profiled_without_a_cuda_graph(
    version: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = fake_tensorrt.install(monkeypatch, version)
    assert run("trt", folder, "--quiet", "--precision", "fp32").exit_code == 0
    del trt.cudart.calls[:]
    bundle = Bundle.open(folder)
    found = profile(bundle, bundle.variant(REDUCED), How("tensorrt", "tensorrt"), runs=3)
    assert found.source == "TensorRT's profiler"
    assert found.whole_ms is None
    assert {layer.ms for layer in found.layers} == {0.25}  # the fake's
    assert found.sum_ms == pytest.approx(0.25 * len(found.layers))
    modules = {share.name for share in found.modules}
    assert {"stem", "blocks.0", "selectors.0", "freeze.0", "blocks.1", "thaw.0", "head"} <= modules
    assert "cudaStreamBeginCapture" not in trt.cudart.calls
    assert trt.cudart.live == {}


def test_the_inspector_names_what_a_layer_was_made_of() -> None:
    layers = [{"Name": "__myl_3", "LayerType": "kgen", "Metadata": "[ONNX Layer: blocks.0/Add]"}, "a name"]
    assert read_inspector(json.dumps({"Layers": layers})) == {
        "__myl_3": ("kgen", "[ONNX Layer: blocks.0/Add]")
    }
    assert read_inspector('{"Layers": ["only", "names"]}') == {}
