"""Types for nodes that have no wish of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from tofe_export.graph.typing.assign import BETWEEN, float32_nodes

Build = Callable[..., onnx.ModelProto]
GraphOf = Callable[[onnx.ModelProto], gs.Graph]
SQUARE = {"w": np.eye(3, dtype=np.float32)}


def chain(build: Build, *ops: str) -> onnx.ModelProto:
    """images -> 0 -> 1 -> ... -> logits."""
    names = ["images", *(f"t{i}" for i in range(len(ops) - 1)), "logits"]
    rows: list[Any] = [
        (str(i), op, [names[i], *(["w"] if op == "MatMul" else [])], [names[i + 1]], {})
        for i, op in enumerate(ops)
    ]
    return build(rows, SQUARE, {"images": [3, 3]}, ["logits"])


def test_copies_between_float32_nodes_are_float32(build: Build, graph_of: GraphOf) -> None:
    graph = graph_of(chain(build, "MatMul", "Transpose", "Relu", "MatMul", "MatMul"))
    held = float32_nodes(graph, {"0": "large", "3": "large"})
    assert held == {"0": "large", "1": BETWEEN, "2": BETWEEN, "3": "large"}


def test_copies_towards_half_are_half(build: Build, graph_of: GraphOf) -> None:
    graph = graph_of(chain(build, "MatMul", "Transpose", "Relu", "MatMul"))
    assert float32_nodes(graph, {"0": "large"}) == {"0": "large"}
    graph = graph_of(chain(build, "MatMul", "Transpose", "MatMul", "MatMul"))
    assert float32_nodes(graph, {"2": "large"}) == {"2": "large"}


def test_a_matmul_is_never_float32_for_company(build: Build, graph_of: GraphOf) -> None:
    graph = graph_of(chain(build, "MatMul", "MatMul", "MatMul"))
    assert float32_nodes(graph, {"0": "large", "2": "large"}) == {"0": "large", "2": "large"}


def test_nobody_counts_on_a_neighbour_that_is_half(build: Build, graph_of: GraphOf) -> None:
    rows: list[Any] = [
        ("large", "MatMul", ["images", "w"], ["a"], {}),
        ("bias", "Add", ["a", "w"], ["b"], {}),
        ("other", "MatMul", ["images", "w"], ["c"], {}),
        ("sum", "Add", ["b", "c"], ["d"], {}),  # half, as `other` is: so `bias` gains nothing
        ("norm", "MatMul", ["d", "w"], ["logits"], {}),
    ]
    graph = graph_of(build(rows, SQUARE, {"images": [3, 3]}, ["logits"]))
    assert list(float32_nodes(graph, {"large": "x", "norm": "x"})) == ["large", "norm"]
    assert "sum" in float32_nodes(graph, {"large": "x", "norm": "x", "other": "x"})


def test_inputs_and_outputs_are_float32(build: Build, graph_of: GraphOf) -> None:
    graph = graph_of(chain(build, "Transpose", "Relu"))
    assert list(float32_nodes(graph, {})) == ["0", "1"]
