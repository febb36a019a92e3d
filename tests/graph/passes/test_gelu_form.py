"""GELU in the order that runtimes fuse."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from tofe_export.graph.passes.gelu_form import GeluFormPass

Infer = Callable[..., dict[str, Any]]
X = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32) * 3
ROOT = np.float32(np.sqrt(2))


def gelu(factor: float = 0.5, *, other_reader: bool = False) -> gs.Graph:
    """x * (factor * (1 + erf(x / sqrt 2))), as the exporter writes it."""
    names = ("x", "scaled", "erf", "sum", "gate", "y")
    x, scaled, erf, total, gate, y = (gs.Variable(name, np.float32, X.shape) for name in names)
    constant = {
        n: gs.Constant(n, np.array(v, np.float32)) for n, v in {"r": ROOT, "1": 1, "h": factor}.items()
    }
    nodes = [
        gs.Node("Div", "act/Div", inputs=[x, constant["r"]], outputs=[scaled]),
        gs.Node("Erf", "act/Erf", inputs=[scaled], outputs=[erf]),
        gs.Node("Add", "act/Add", inputs=[erf, constant["1"]], outputs=[total]),
        gs.Node("Mul", "act/Mul", inputs=[constant["h"], total], outputs=[gate]),
        gs.Node("Mul", "act/Mul_2", inputs=[x, gate], outputs=[y]),
    ]
    outputs = [y, gate] if other_reader else [y]
    return gs.Graph(nodes, [x], outputs, opset=17)


def model_of(graph: gs.Graph) -> onnx.ModelProto:
    model: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def fused(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Operators that ONNX Runtime makes of a model."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def test_the_numbers_stay(infer: Infer) -> None:
    graph, modified = GeluFormPass()(gelu())
    assert modified
    before, after = infer(model_of(gelu()), {"x": X})["y"], infer(model_of(graph), {"x": X})["y"]
    np.testing.assert_allclose(after, before, rtol=1e-6, atol=1e-7)


def test_onnx_runtime_fuses_this_form_and_not_the_other(tmp_path: Path) -> None:
    assert fused(model_of(gelu()), tmp_path)["Gelu"] == 0
    assert fused(model_of(GeluFormPass()(gelu()).graph), tmp_path) == {"Gelu": 1}


@pytest.mark.parametrize("graph", [gelu(0.25), gelu(other_reader=True)], ids=["not a half", "read elsewhere"])
def test_what_is_no_gelu_stays(graph: gs.Graph) -> None:
    before = [(node.name, node.op) for node in graph.nodes]
    assert not GeluFormPass()(graph).modified
    assert [(node.name, node.op) for node in graph.nodes] == before
