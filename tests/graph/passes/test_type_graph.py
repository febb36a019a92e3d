"""TypeGraphPass: one Cast per tensor and type, names as before, float32 at both ends."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto
from onnx_graphsurgeon.ir.tensor import LazyValues

from tofe_export.errors import BuildFailed
from tofe_export.graph.passes.type_graph import TypeGraphPass
from tofe_export.graph.typing.half import HALVES

FP16, BF16 = HALVES["fp16"], HALVES["bf16"]
W: npt.NDArray[np.float32] = np.full((2, 2), 0.1, np.float32)


def diamond(weight: gs.Constant | None = None) -> gs.Graph:
    """images -> first -> (left, right) -> sum; all read one weight; `ids` makes floats of integers."""
    w = weight or gs.Constant("w", W)
    x, a, b, c, f, y = (gs.Variable(n, np.float32, [2, 2]) for n in ("images", "a", "b", "c", "f", "logits"))
    ids = gs.Constant("ids", np.eye(2, dtype=np.int64))
    nodes = [
        gs.Node("Mul", "first", {}, [x, w], [a]),
        gs.Node("MatMul", "left", {}, [a, w], [b]),
        gs.Node("MatMul", "right", {}, [a, w], [c]),
        gs.Node("Cast", "ids", {"to": 1}, [ids], [f]),
        gs.Node("Sum", "sum", {}, [b, c, f], [y]),
    ]
    return gs.Graph(nodes, [x], [y], opset=17, name="diamond")


def typed(graph: gs.Graph, float32: tuple[str, ...], half: str = "fp16") -> onnx.ModelProto:
    graph = TypeGraphPass(HALVES[half], float32)(graph).graph
    model = gs.export_onnx(graph, do_type_check=False)
    del model.graph.value_info[:]
    model.ir_version = 8
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)


def casts(model: onnx.ModelProto) -> list[str]:
    return [node.name for node in model.graph.node if node.op_type == "Cast" and node.name != "ids"]


@pytest.mark.parametrize("half", HALVES)
def test_all_half(half: str) -> None:
    model, name = typed(diamond(), (), half), HALVES[half].name
    assert casts(model) == [f"images/to_{name}", "sum/to_float32"]
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    assert types["logits"] == TensorProto.FLOAT
    assert {types[n] for n in ("a", "b", "c", "f", f"logits:{name}")} == {HALVES[half].onnx_type}
    assert model.graph.output[0].name == "logits"
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert constants == {f"w:{name}": HALVES[half].onnx_type, "ids": TensorProto.INT64}


def test_a_tensor_is_cast_once_per_type() -> None:
    model = typed(diamond(), ("left", "right"))
    made = casts(model)
    assert Counter(made) == Counter(
        ["images/to_float16", "first/to_float32", "left/to_float16", "right/to_float16", "sum/to_float32"]
    )
    inputs = {node.name: list(node.input) for node in model.graph.node}
    assert inputs["left"] == inputs["right"] == ["a:float32", "w"]
    assert inputs["first"] == ["images:float16", "w:float16"]  # the same constant, in both types


def test_everything_float32_changes_nothing() -> None:
    graph = diamond()
    names = tuple(node.name for node in graph.nodes)
    result = TypeGraphPass(FP16, names)(graph)
    assert not result.modified
    assert {node.name for node in result.graph.nodes} == set(names)


def test_half_constants_are_rounded() -> None:
    model = typed(diamond(), ())
    values = onnx.numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w:float16"))
    np.testing.assert_array_equal(values, W.astype(np.float16))


def test_external_weights_need_a_copy() -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, 2])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    graph = diamond(gs.Constant("w", LazyValues(tensor)))
    with pytest.raises(BuildFailed, match="w: expected a bfloat16 copy in the weights file, found none"):
        TypeGraphPass(BF16, ())(graph)
