"""Unread nodes go, equal small constants are shared, nodes are sorted, inputs stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from tofe_export.graph.passes.clean_up import CleanUpPass

Free = Any  # whatever the node takes


def chain(first: Free, second: Free) -> gs.Graph:
    """y = (x + first) + second, stored in the wrong order, with an input that nothing reads."""
    x, unread = gs.Variable("x", np.float32, [2]), gs.Variable("unread", np.float32, [2])
    middle, y = gs.Variable("middle", np.float32, [2]), gs.Variable("y", np.float32, [2])
    nodes = [
        gs.Node("Add", "second", {}, [middle, gs.Constant("c2", second)], [y]),
        gs.Node("Add", "first", {}, [x, gs.Constant("c1", first)], [middle]),
    ]
    return gs.Graph(nodes, [x, unread], [y], opset=17)


ONE, TWO = np.ones(2, np.float32), np.full(2, 2, np.float32)


def test_equal_small_constants_become_one() -> None:
    graph, modified = CleanUpPass()(chain(ONE, ONE.copy()))
    assert modified
    assert [node.name for node in graph.nodes] == ["first", "second"]
    assert graph.nodes[0].inputs[1] is graph.nodes[1].inputs[1]
    assert [tensor.name for tensor in graph.inputs] == ["x", "unread"]


def test_constants_of_another_type_or_shape_are_others() -> None:
    assert not CleanUpPass()(chain(np.zeros(2, np.float32), np.zeros(1, np.float32))).modified
    assert not CleanUpPass()(chain(np.zeros(2, np.float32), np.zeros(2, np.int32))).modified


def test_unread_nodes_go() -> None:
    graph = chain(ONE, TWO)
    graph.nodes.append(gs.Node("Neg", "unread", {}, [graph.inputs[0]], [gs.Variable("z", np.float32)]))
    graph, modified = CleanUpPass()(graph)
    assert modified
    assert len(graph.nodes) == 2


def test_a_clean_graph_is_left_alone() -> None:
    graph, modified = CleanUpPass()(chain(ONE, TWO))
    assert not modified
    assert len(graph.nodes) == 2
