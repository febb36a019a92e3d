"""Slice parameters become INT32 and keep their meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs

from tofe_export.graph.passes.int32_slices import Int32SlicesPass

Infer = Callable[..., dict[str, Any]]
Free = Any  # whatever the node takes

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
LAST = np.iinfo(np.int64).max


def sliced(*parameters: int, dtype: Free = np.int64) -> gs.Graph:
    x, y = gs.Variable("x", np.float32, (2, 3, 4)), gs.Variable("y", np.float32)
    constants = [gs.Constant(f"c{i}", np.array([value], dtype)) for i, value in enumerate(parameters)]
    return gs.Graph([gs.Node("Slice", "slice", {}, [x, *constants], [y])], [x], [y], opset=17)


def run(graph: gs.Graph, infer: Infer) -> npt.NDArray[np.float32]:
    model = onnx.shape_inference.infer_shapes(gs.export_onnx(graph, do_type_check=False), strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    model.ir_version = 8
    result: npt.NDArray[np.float32] = infer(model, {"x": X})["y"]
    return result


def test_to_the_end_stays_to_the_end(infer: Infer) -> None:
    graph, modified = Int32SlicesPass()(sliced(1, LAST, 1, 1))
    assert modified
    assert all(tensor.values.dtype == np.int32 for tensor in graph.nodes[0].inputs[1:])
    np.testing.assert_array_equal(run(graph, infer), X[:, 1:])


def test_backwards_stays_backwards(infer: Infer) -> None:
    graph, _ = Int32SlicesPass()(sliced(-1, -LAST, 2, -1))
    np.testing.assert_array_equal(run(graph, infer), X[:, :, ::-1])


def test_a_constant_that_others_read_is_not_changed() -> None:
    graph = sliced(0, 2, 1, 1)
    shared = graph.nodes[0].inputs[1]
    Int32SlicesPass()(graph)
    assert shared.values.dtype == np.int64


def test_int32_is_left_alone() -> None:
    assert not Int32SlicesPass()(sliced(0, 2, 1, 1, dtype=np.int32)).modified


def test_computed_parameters_are_left_to_lint() -> None:
    graph = sliced(0, 2, 1, 1)
    end = gs.Variable("end", np.int64, [1])
    graph.nodes[0].inputs[2] = end
    graph.inputs.append(end)
    assert not Int32SlicesPass()(graph).modified
