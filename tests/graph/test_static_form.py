"""Each rule, broken once by editing a good graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tofe_export.errors import BuildFailed
from tofe_export.graph.static_form import FORBIDDEN, TOPK_LIMIT, check_static

Toy = Any  # of conftest.py, which no test can import


@pytest.fixture(scope="module")
def _good(toy: Toy) -> onnx.ModelProto:
    model: onnx.ModelProto = toy().bind("scatter", (3, 2))
    return model


@pytest.fixture
def good(_good: onnx.ModelProto) -> onnx.ModelProto:
    """A copy to break."""
    copy = onnx.ModelProto()
    copy.CopyFrom(_good)
    return copy


def node(model: onnx.ModelProto, op: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(n for n in model.graph.node if n.op_type == op)
    return found


def constant(model: onnx.ModelProto, name: str) -> TensorProto:
    found: TensorProto = next(t for t in model.graph.initializer if t.name == name)
    return found


def size(model: onnx.ModelProto, tensor: str) -> onnx.TensorShapeProto.Dimension:
    values = (*model.graph.value_info, *model.graph.output, *model.graph.input)
    first: onnx.TensorShapeProto.Dimension = next(
        v for v in values if v.name == tensor
    ).type.tensor_type.shape.dim[0]
    return first


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 16


def new_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 23


def foreign_import(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("tofe", 1))


def foreign_node(model: onnx.ModelProto) -> None:
    node(model, "MatMul").domain = "com.microsoft"


def nameless_node(model: onnx.ModelProto) -> None:
    node(model, "MatMul").name = ""


def nameless_output(model: onnx.ModelProto) -> None:
    node(model, "TopK").output[0] = ""


def reduction(model: onnx.ModelProto) -> None:
    node(model, "ScatterND").attribute.append(helper.make_attribute("reduction", "none"))


def computed_k(model: onnx.ModelProto) -> None:
    node(model, "TopK").input[1] = "elsewhere"


def large_k(model: onnx.ModelProto) -> None:
    k = constant(model, node(model, "TopK").input[1])
    k.CopyFrom(onnx.numpy_helper.from_array(np.array([TOPK_LIMIT], np.int64), k.name))


def int64_slice(model: onnx.ModelProto) -> None:
    start = constant(model, node(model, "Slice").input[1])
    start.CopyFrom(onnx.numpy_helper.from_array(np.array([1], np.int64), start.name))


def computed_slice(model: onnx.ModelProto) -> None:
    node(model, "Slice").input[1] = "elsewhere"


def symbolic_size(model: onnx.ModelProto) -> None:
    size(model, node(model, "ScatterND").output[0]).dim_param = "u0"


def unknown_size(model: onnx.ModelProto) -> None:
    size(model, "logits").Clear()


def unknown_shape(model: onnx.ModelProto) -> None:
    del model.graph.value_info[:]


RULES: list[tuple[Callable[[onnx.ModelProto], None], str]] = [
    (old_opset, "opset imports are"),
    (new_opset, "opset imports are"),
    (foreign_import, "opset imports are"),
    (foreign_node, r"is com\.microsoft\.MatMul"),
    (nameless_node, "a MatMul has no name"),
    (nameless_output, "a TopK has no name, or an output without one"),
    (reduction, "carries the attribute `reduction`"),
    (computed_k, "needs a constant K below 3840"),
    (large_k, "needs a constant K below 3840"),
    (int64_slice, "parameters other than constant INT32"),
    (computed_slice, "parameters other than constant INT32"),
    (symbolic_size, "has a size 'u0'"),
    (unknown_size, "logits has a size 'unknown'"),
    (unknown_shape, "no shape is known for"),
]


@pytest.mark.parametrize(("break_", "message"), RULES, ids=lambda value: getattr(value, "__name__", None))
def test_every_rule_is_checked(
    break_: Callable[[onnx.ModelProto], None], message: str, good: onnx.ModelProto
) -> None:
    break_(good)
    with pytest.raises(BuildFailed, match=message):
        check_static(good, adaptive=False, dynamic_batch=False)


@pytest.mark.parametrize("op", FORBIDDEN)
def test_shape_arithmetic_is_forbidden_where_shapes_are_static(op: str, good: onnx.ModelProto) -> None:
    node(good, "MatMul").op_type = op
    with pytest.raises(BuildFailed, match=f"score0 is a {op}"):
        check_static(good, adaptive=False, dynamic_batch=False)
    check_static(good, adaptive=True, dynamic_batch=False)


def test_a_dynamic_batch_must_be_asked_for(good: onnx.ModelProto) -> None:
    size(good, "images").dim_param = "batch"
    with pytest.raises(BuildFailed, match="images has a size 'batch'"):
        check_static(good, adaptive=False, dynamic_batch=False)
    check_static(good, adaptive=False, dynamic_batch=True)


def test_all_findings_are_counted_and_the_first_shown(good: onnx.ModelProto) -> None:
    for n in good.graph.node:
        n.name = ""
    with pytest.raises(BuildFailed, match=f"breaks {len(good.graph.node)} rules") as error:
        check_static(good, adaptive=False, dynamic_batch=False)
    assert str(error.value).count("has no name") == 8


@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize("lowering", ["scatter", "concat"])
@pytest.mark.parametrize("probe", [False, True])
def test_a_good_graph_passes(batch: int | None, lowering: str, probe: bool, toy: Toy) -> None:
    check_static(
        toy().bind(lowering, (3, 2), batch, probe=probe), adaptive=False, dynamic_batch=batch is None
    )
