"""Opset 18 forms become opset 17 forms that compute the same; whatever else changed is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest

from tofe_export.errors import BuildFailed
from tofe_export.graph.passes.downgrade_opset import DowngradeOpsetPass

Infer = Callable[..., dict[str, Any]]
Free = Any  # whatever the node takes

Array = npt.NDArray[Any]
X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def graph_of(
    op: str, *inputs: Array, outputs: int = 1, shape: tuple[int, ...] = (2, 3, 4), **attrs: Free
) -> gs.Graph:
    x = gs.Variable("x", np.float32, shape)
    constants = [gs.Constant(f"c{i}", value) for i, value in enumerate(inputs)]
    out = [gs.Variable(f"y{i}", np.float32) for i in range(outputs)]
    node = gs.Node(op, "node", attrs, [x, *constants], out)
    return gs.Graph([node], [x], out, opset=18)


def model_of(graph: gs.Graph) -> onnx.ModelProto:
    model = onnx.shape_inference.infer_shapes(gs.export_onnx(graph, do_type_check=False), strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    model.ir_version = 8
    return model


CASES = [
    ("ReduceMean", (np.array([1], np.int64),), 1, {"keepdims": 0}),
    ("ReduceMax", (np.array([-1], np.int64),), 1, {"keepdims": 1, "noop_with_empty_axes": 0}),
    ("Split", (), 3, {"axis": 1, "num_outputs": 3}),
    ("Pad", (np.array([0, 1, 0, 0, 0, 2], np.int64), np.array(7, np.float32)), 1, {}),
    ("ReduceSum", (np.array([2], np.int64),), 1, {}),
    ("Softmax", (), 1, {"axis": -1}),
]


@pytest.mark.parametrize(("op", "inputs", "outputs", "attrs"), CASES, ids=[case[0] for case in CASES])
def test_rewritten_forms_compute_the_same(
    op: str, inputs: tuple[Array, ...], outputs: int, attrs: dict[str, Any], infer: Infer
) -> None:
    before = infer(model_of(graph_of(op, *inputs, outputs=outputs, **attrs)), {"x": X})
    graph, modified = DowngradeOpsetPass()(graph_of(op, *inputs, outputs=outputs, **attrs))
    assert modified
    model = model_of(graph)
    assert [o.version for o in model.opset_import] == [17]
    after = infer(model, {"x": X})
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


REFUSED = [
    graph_of("Pad", np.array([1, 1], np.int64), np.array(0, np.float32), np.array([1], np.int64)),
    graph_of("ScatterElements", np.zeros((2, 3, 4), np.int64), X, reduction="none"),
    graph_of("ReduceL1", np.array([1], np.int64)),
    graph_of("Resize", np.zeros(0, np.float32), np.ones(3, np.float32)),
    graph_of("Split", outputs=2, axis=1, num_outputs=2),  # 3 does not split evenly
]


@pytest.mark.parametrize("graph", REFUSED, ids=lambda graph: str(graph.nodes[0].op))
def test_other_changes_are_refused(graph: gs.Graph) -> None:
    with pytest.raises(BuildFailed, match=r"^node: "):
        DowngradeOpsetPass()(graph.copy())


def test_a_graph_at_17_is_left_alone() -> None:
    graph = graph_of("Relu")
    graph.opset = 17
    assert not DowngradeOpsetPass()(graph).modified
