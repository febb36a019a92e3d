"""Emitted nodes have unique names; replacing a tensor reaches every reader."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tofe_export.graph.emit import Emitter, detach, int64, name_ids, replace, shaped, template_nodes


@pytest.fixture
def graph() -> gs.Graph:
    """y = Neg(Abs(x))."""
    x, middle, y = (gs.Variable(name, np.float32, [2, 3]) for name in ("x", "middle", "y"))
    nodes = [gs.Node("Abs", "abs", {}, [x], [middle]), gs.Node("Neg", "neg", {}, [middle], [y])]
    return gs.Graph(nodes, [x], [y], opset=17)


def test_names_are_numbered_where_they_repeat(graph: gs.Graph) -> None:
    emit = Emitter(graph, "stage1")
    for _ in range(2):
        emit("Add", graph.inputs[0], int64(1))
    Emitter(graph, "stage1")("Add", graph.inputs[0], int64(1))  # another emitter of the same scope
    assert [node.name for node in graph.nodes[2:]] == ["stage1/Add", "stage1/Add_2", "stage1/Add_3"]
    constants = [node.inputs[1].name for node in graph.nodes[2:]]
    assert len(set(constants)) == 3


def test_several_outputs(graph: gs.Graph) -> None:
    values, index = Emitter(graph, "s")("TopK", graph.inputs[0], int64(1), count=2)
    assert [values.name, index.name] == ["s/TopK:out0", "s/TopK:out1"]


def test_slices_are_int32(graph: gs.Graph) -> None:
    Emitter(graph, "s").slice(graph.inputs[0], 1, 2)
    assert [tensor.values.tolist() for tensor in graph.nodes[-1].inputs[1:]] == [[1], [2], [1], [1]]
    assert {tensor.values.dtype for tensor in graph.nodes[-1].inputs[1:]} == {np.dtype(np.int32)}


def test_replace_reaches_nodes(graph: gs.Graph) -> None:
    middle, new = graph.tensors()["middle"], gs.Variable("new", np.float32)
    replace(graph, middle, new)
    assert graph.nodes[1].inputs == [new]
    assert graph.outputs[0].name == "y"


def test_replace_keeps_the_name_of_an_output(graph: gs.Graph) -> None:
    new = gs.Variable("new")
    replace(graph, graph.outputs[0], new)
    assert graph.outputs == [new]
    assert (new.name, new.shape, new.dtype) == ("y", [2, 3], np.float32)
    assert graph.nodes[1].outputs[0].name == "y/unused"


def test_shaped_hands_the_type_on(graph: gs.Graph) -> None:
    new = shaped(gs.Variable("new"), graph.outputs[0])
    assert (new.shape, new.dtype) == ([2, 3], np.float32)


def test_ids_are_published_under_a_name_of_their_own(graph: gs.Graph) -> None:
    ids = gs.Variable("kept_1", np.int64, [1, 3])
    name_ids(Emitter(graph, "s"), ids, 1)
    assert ids.name == "kept_1"
    assert graph.tensors()["ids_2"].shape == [1, 3]


def test_only_nodes_of_the_template_are_found(graph: gs.Graph) -> None:
    graph.nodes.append(gs.Node("Freeze", "f", domain="tofe"))
    graph.nodes.append(gs.Node("Thaw", "t", domain="tofe"))
    graph.nodes.append(gs.Node("Freeze", "foreign"))
    found = template_nodes(graph, "Freeze")
    assert [node.name for node in found] == ["f"]
    detach(graph.nodes[:1])
    assert graph.nodes[0].inputs == graph.nodes[0].outputs == []
