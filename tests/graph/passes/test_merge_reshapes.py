"""One Reshape where there were two, none where the shape stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from tofe_export.graph.emit import int64
from tofe_export.graph.passes.merge_reshapes import MergeReshapesPass

Infer = Callable[..., dict[str, Any]]
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def chain(*shapes: tuple[int, ...], end: str = "Neg") -> gs.Graph:
    """Reshapes of x in a row, and an operator behind them."""
    x = gs.Variable("x", np.float32, X.shape)
    nodes, last = [], x
    for i, shape in enumerate(shapes):
        known = list(X.reshape(shape if 0 not in shape else X.shape).shape)
        result = gs.Variable(f"r{i}", np.float32, known)
        nodes.append(
            gs.Node(
                "Reshape", f"reshape{i}", inputs=[last, gs.Constant(f"s{i}", int64(*shape))], outputs=[result]
            )
        )
        last = result
    if end:
        y = gs.Variable("y", np.float32, last.shape)
        nodes.append(gs.Node(end, "end", inputs=[last], outputs=[y]))
        last = y
    return gs.Graph(nodes, [x], [last], opset=17)


def merged(graph: gs.Graph) -> tuple[bool, onnx.ModelProto]:
    graph, modified = MergeReshapesPass()(graph)
    model: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    model.ir_version = 8
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(model, strict_mode=True), full_check=True)
    return modified, model


def ops(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_the_last_of_a_row_remains(infer: Infer) -> None:
    modified, model = merged(chain((6, 4), (24,), (4, 6)))
    assert modified
    assert ops(model) == ["Reshape", "Neg"]
    np.testing.assert_array_equal(infer(model, {"x": X})["y"], -X.reshape(4, 6))


def test_there_and_back_is_nothing(infer: Infer) -> None:
    modified, model = merged(chain((6, 4), (2, -1, 4)))
    assert modified
    assert ops(model) == ["Neg"]
    np.testing.assert_array_equal(infer(model, {"x": X})["y"], -X)


def test_others_go_on_reading_what_is_between(infer: Infer) -> None:
    graph = chain((6, 4), (24,))
    between = graph.nodes[0].outputs[0]
    z = gs.Variable("z", np.float32, between.shape)
    graph.nodes.append(gs.Node("Abs", "other", inputs=[between], outputs=[z]))
    graph.outputs.append(z)
    _, model = merged(graph)
    found = infer(model, {"x": X})
    np.testing.assert_array_equal(found["y"], -X.reshape(24))
    np.testing.assert_array_equal(found["z"], X.reshape(6, 4))


def test_a_copied_size_stays() -> None:
    modified, model = merged(chain((2, 12), (0, 3, 4)))
    assert not modified
    assert ops(model) == ["Reshape", "Reshape", "Neg"]


def test_the_name_of_an_output_stays() -> None:
    _, model = merged(chain((2, 3, 4), end=""))
    assert [output.name for output in model.graph.output] == ["r0"]
    assert ops(model) == ["Reshape"]
