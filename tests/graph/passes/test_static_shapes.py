"""Reshape targets become constants, from the inferred shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tofe_export.errors import BuildFailed
from tofe_export.graph.passes.clean_up import CleanUpPass
from tofe_export.graph.passes.static_shapes import StaticShapesPass

Free = Any  # whatever the node takes


def computed(shape: list[Any] | None, **attrs: Free) -> gs.Graph:
    """A Reshape whose target another node computes."""
    x = gs.Variable("x", np.float32, ["batch", 6, 4])
    target = gs.Variable("target", np.int64, [3])
    y = gs.Variable("y", np.float32, shape)
    nodes = [
        gs.Node("Shape", "shape", {}, [x], [target]),
        gs.Node("Reshape", "reshape", attrs, [x, target], [y]),
    ]
    return gs.Graph(nodes, [x], [y], opset=17)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        ([2, 3, 8], [2, 3, 8]),
        (["batch", 3, 8], [0, 3, 8]),
        (["batch", "u0", 8], [0, -1, 8]),
        ([1, "u0", 8], [1, -1, 8]),
        (["6*batch", 4], [-1, 4]),
    ],
)
def test_targets_are_written(shape: list[Any], target: list[int]) -> None:
    graph, modified = StaticShapesPass()(computed(shape, allowzero=1))
    assert modified
    reshape = graph.nodes[1]
    assert reshape.inputs[1].values.tolist() == target
    assert reshape.inputs[1].values.dtype == np.int64
    assert "allowzero" not in reshape.attrs
    assert [node.op for node in CleanUpPass()(graph).graph.nodes] == ["Reshape"]


def test_two_unknown_sizes_are_refused() -> None:
    with pytest.raises(BuildFailed, match="reshape: expected at most one unknown size"):
        StaticShapesPass()(computed(["u0", "u1", 4]))


@pytest.mark.parametrize("shape", [[2, 3, 8], None])
def test_constant_or_unknown_targets_are_left_alone(shape: list[int] | None) -> None:
    graph = computed(shape)
    graph.nodes[1].inputs[1] = gs.Constant("target", np.array([2, 3, 8], np.int64))
    assert not StaticShapesPass()(graph).modified
