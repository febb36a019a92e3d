"""Graphs of a few nodes, written down as lists, and a small transformer-like one with a selector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest

Array = npt.NDArray[Any]
Row = tuple[str, str, list[str], list[str], dict[str, Any]]
Build = Callable[..., onnx.ModelProto]
WIDTH, TOKENS, KEPT = 8, 6, 3


def build_model(
    rows: Sequence[Row],
    constants: Mapping[str, Array],
    inputs: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """A float32 model: rows are (name, operator, inputs, outputs, attributes); all types are inferred."""
    nodes = [onnx.helper.make_node(op, ins, outs, name=name, **attrs) for name, op, ins, outs, attrs in rows]
    ends = [onnx.helper.make_empty_tensor_value_info(name) for name in outputs]
    begin = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in inputs.items()]
    values = [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()]
    graph = onnx.helper.make_graph(nodes, "small", begin, ends, values)
    opsets = [onnx.helper.make_opsetid("", 17)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def selecting(scale: float = 1.0) -> onnx.ModelProto:
    """x = images W; a selector (norm, MatMul, Squeeze, TopK) picks rows of x; norm and head read them.

    The weight `half` = 0.5 is read by the selector and by the trunk; `scale` multiplies one weight of `up`,
    and `down` divides by it.
    """
    random = np.random.RandomState(0)

    def weight(*shape: int) -> Array:
        drawn: Array = random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[0]))
        return drawn

    constants = {
        **{"w": weight(WIDTH, WIDTH), "up": weight(WIDTH, WIDTH), "down": weight(WIDTH, WIDTH)},
        **{"score_w": weight(WIDTH, 1), "head_w": weight(WIDTH, 4)},
        **{"gain": np.ones(WIDTH, np.float32), "half": np.array(0.5, np.float32)},
        **{"k": np.array([KEPT]), "last": np.array([-1]), "rows": np.array([TOKENS, WIDTH])},
        "flat": np.array([KEPT]),
    }
    constants["up"][:, 2] *= np.float32(scale)
    constants["down"][2] /= np.float32(scale)
    rows: list[Row] = [
        ("stem", "MatMul", ["images", "w"], ["x"], {}),
        ("selector/norm", "LayerNormalization", ["x", "gain"], ["n"], {"axis": -1}),
        ("selector/scale", "Mul", ["n", "half"], ["n2"], {}),
        ("selector/score", "MatMul", ["n2", "score_w"], ["s"], {}),
        ("selector/squeeze", "Squeeze", ["s", "last"], ["scores"], {}),
        ("topk", "TopK", ["scores", "k"], ["best", "ids"], {"axis": -1}),
        ("flatten", "Reshape", ["x", "rows"], ["r"], {}),
        ("ids", "Reshape", ["ids", "flat"], ["i"], {}),
        ("gather", "Gather", ["r", "i"], ["g"], {"axis": 0}),
        ("mlp/up", "MatMul", ["g", "up"], ["u"], {}),
        ("mlp/relu", "Relu", ["u"], ["a"], {}),
        ("mlp/down", "MatMul", ["a", "down"], ["d"], {}),
        ("mlp/half", "Mul", ["d", "half"], ["h"], {}),
        ("sum", "Add", ["g", "h"], ["y"], {}),
        ("norm", "LayerNormalization", ["y", "gain"], ["z"], {"axis": -1}),
        ("head", "MatMul", ["z", "head_w"], ["logits"], {}),
    ]
    return build_model(rows, constants, {"images": [1, TOKENS, WIDTH]}, ["logits"])


@pytest.fixture(scope="session")
def build() -> Build:
    """Make a model of rows."""
    return build_model


@pytest.fixture(scope="session")
def select() -> Build:
    """Make the model with a selector."""
    return selecting


@pytest.fixture(scope="session")
def graph_of() -> Callable[[onnx.ModelProto], gs.Graph]:
    """A graphsurgeon graph of a copy."""

    def convert(model: onnx.ModelProto) -> gs.Graph:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        return gs.import_onnx(copy)

    return convert


@pytest.fixture(scope="session")
def images() -> Array:
    """For the model with a selector."""
    return np.random.RandomState(1).standard_normal((1, TOKENS, WIDTH)).astype(np.float32)
