"""Graphs that take camera frames: the same answers as on normalised images, by the fewest operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper

from tofe_export.graph.take_frames import take_frames
from tofe_export.inputs import prepare
from tofe_export.preprocess import Preprocessing

Infer = Callable[..., dict[str, Any]]
PRE = Preprocessing((8, 8), 1.0, "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
RANDOM = np.random.RandomState(0)
WEIGHTS = RANDOM.standard_normal((5, 3, 4, 4)).astype(np.float32)
PICTURES = [RANDOM.randint(0, 256, (8, 8, 3)).astype(np.uint8) for _ in range(2)]


def model(*nodes: onnx.NodeProto, weights: Any = WEIGHTS, rank: int = 4) -> onnx.ModelProto:
    """Nodes from `images` to `y`, with constants `w` and `b`."""
    bias = np.arange(len(weights), dtype=np.float32)
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")]
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, 8, 8])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None] * rank)
    graph = helper.make_graph(list(nodes), "stem", [images], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def conv(*inputs: str, to: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", list(inputs), [to], name="stem/Conv", **attributes)


def rewritten(original: onnx.ModelProto) -> onnx.ModelProto:
    graph = ir.from_proto(original)
    take_frames(graph.graph, PRE)
    made = ir.to_proto(graph)
    onnx.checker.check_model(made, full_check=True)
    return made


def operators(found: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in found.graph.node]


def same_answers(infer: Infer, before: onnx.ModelProto, after: onnx.ModelProto, batch: int = 2) -> None:
    images = np.stack([prepare(picture, PRE, frames=False) for picture in PICTURES[:batch]])
    frames = np.stack([prepare(picture, PRE, frames=True) for picture in PICTURES[:batch]])
    expected, found = infer(before, {"images": images})["y"], infer(after, {"images": frames})["y"]
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("inputs", [("images", "w", "b"), ("images", "w")], ids=["bias", "no-bias"])
@pytest.mark.parametrize(
    "attributes",
    [{}, {"pads": [0, 0, 0, 0]}, {"auto_pad": "VALID"}, {"strides": [4, 4]}, {"dilations": [2, 2]}],
)
def test_a_conv_without_padding_takes_all_of_it(
    inputs: tuple[str, ...], attributes: dict[str, Any], infer: Infer
) -> None:
    before = model(conv(*inputs, **attributes))
    after = rewritten(before)
    assert operators(after) == ["Cast", "Transpose", "Conv"]
    (frames,) = after.graph.input
    kind = frames.type.tensor_type
    assert (frames.name, kind.elem_type) == ("images", onnx.TensorProto.UINT8)
    assert [size.dim_param or size.dim_value for size in kind.shape.dim] == ["batch", 8, 8, 3]
    same_answers(infer, before, after)
    same_answers(infer, before, after, batch=1)


@pytest.mark.parametrize(
    "attributes",
    [{"pads": [1, 1, 1, 1]}, {"pads": [0, 0, 0, 3]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}],
)
def test_a_padded_conv_keeps_the_subtraction(attributes: dict[str, Any], infer: Infer) -> None:
    before = model(conv("images", "w", "b", **attributes))
    after = rewritten(before)
    assert operators(after) == ["Cast", "Transpose", "Sub", "Conv"]
    same_answers(infer, before, after)


def test_an_offset_in_the_bias_of_a_padded_conv_would_be_wrong(
    infer: Infer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = model(conv("images", "w", "b", pads=[1, 1, 1, 1]))
    monkeypatch.setattr("tofe_export.graph.take_frames._is_padded", lambda node: False)
    with pytest.raises(AssertionError):
        same_answers(infer, before, rewritten(before))


def test_other_stems_normalise_explicitly(infer: Infer) -> None:
    before = model(helper.make_node("ReduceMean", ["images"], ["y"], axes=[2, 3], keepdims=0), rank=2)
    after = rewritten(before)
    assert operators(after) == ["Cast", "Transpose", "Sub", "Mul", "ReduceMean"]
    same_answers(infer, before, after)


def test_weights_that_others_read_are_left_alone(infer: Infer) -> None:
    total = [
        helper.make_node("ReduceSum", ["w"], ["sum"], keepdims=0),
        helper.make_node("Add", ["c", "sum"], ["y"]),
    ]
    before = model(conv("images", "w", "b", to="c"), *total)
    after = rewritten(before)
    assert operators(after).count("Mul") == 1
    same_answers(infer, before, after)


def test_two_readers_share_one_normalisation(infer: Infer) -> None:
    mean = helper.make_node("ReduceMean", ["images"], ["m"], axes=[1, 2, 3], keepdims=1)
    before = model(conv("images", "w", "b", to="c"), mean, helper.make_node("Add", ["c", "m"], ["y"]))
    after = rewritten(before)
    assert operators(after)[:4] == ["Cast", "Transpose", "Sub", "Mul"]
    same_answers(infer, before, after)


def test_groups_are_not_folded(infer: Infer) -> None:
    weights = RANDOM.standard_normal((6, 1, 4, 4)).astype(np.float32)
    before = model(conv("images", "w", group=3), weights=weights)
    after = rewritten(before)
    assert operators(after) == ["Cast", "Transpose", "Sub", "Mul", "Conv"]
    same_answers(infer, before, after)


def test_the_batch_is_still_read_from_the_images(infer: Infer) -> None:
    nodes = [
        conv("images", "w", "b", to="c"),
        helper.make_node("Shape", ["images"], ["size"]),
        helper.make_node("Cast", ["size"], ["sizes"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["sizes"], ["largest"], keepdims=0),
        helper.make_node("Add", ["c", "largest"], ["y"]),
    ]
    before = model(*nodes)
    after = rewritten(before)
    assert operators(after)[:3] == ["Cast", "Transpose", "Conv"]
    same_answers(infer, before, after)
