"""Small ONNX graphs made by hand: a builder, and a reduced model with every operator that exports have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tofe_export.lint.findings import Finding
from tofe_export.lint.lint import lint_model

Value = tuple[str, int, Sequence["int | str"]]  # name, element type, sizes
BuildModel = Callable[..., ModelProto]
Lint = Callable[..., list[Finding]]

X: Value = ("x", TensorProto.FLOAT, [2, 8])
Y: Value = ("y", TensorProto.FLOAT, [2, 8])


def build(
    nodes: Sequence[NodeProto],
    constants: Mapping[str, Any] | None = None,
    inputs: Sequence[Value] = (X,),
    outputs: Sequence[Value] = (Y,),
    opset: int = 17,
    domains: Mapping[str, int] | None = None,
) -> ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "hand-made",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    imports = [helper.make_opsetid(name, version) for name, version in {"": opset, **(domains or {})}.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def build_tofe() -> ModelProto:
    """One block, a selection of 4 of 16 tokens, both ways back, and a head; static fp32 at opset 17."""
    random = np.random.default_rng(0)
    node = helper.make_node

    def weights(*shape: int) -> Any:
        return random.standard_normal(shape).astype(np.float32)

    nodes = [
        node("Conv", ["images", "stem.w"], ["map"], "stem/Conv", strides=[2, 2]),
        node("Reshape", ["map", "to_rows"], ["flat"], "stem/Reshape"),
        node("Transpose", ["flat"], ["patches"], "stem/Transpose", perm=[0, 2, 1]),
        node("Pad", ["patches", "front"], ["padded"], "stem/Pad"),
        node("Add", ["padded", "pos"], ["tokens"], "stem/Add"),
        node("LayerNormalization", ["tokens", "ln.w", "ln.b"], ["normed"], "block/LayerNormalization"),
        node("MatMul", ["normed", "qkv.w"], ["qkv"], "block/qkv"),
        node("Split", ["qkv", "thirds"], ["q", "k", "v"], "block/Split", axis=2),
        node("Mul", ["q", "scale"], ["q_scaled"], "block/Mul"),
        node("Transpose", ["k"], ["k_t"], "block/Transpose", perm=[0, 2, 1]),
        node("MatMul", ["q_scaled", "k_t"], ["attention"], "block/MatMul"),
        node("Softmax", ["attention"], ["weights"], "block/Softmax", axis=-1),
        node("MatMul", ["weights", "v"], ["mixed"], "block/MatMul_1"),
        node("Div", ["mixed", "root"], ["divided"], "block/Div"),
        node("Erf", ["divided"], ["out"], "block/Erf"),
        node("ReduceMean", ["out"], ["mean"], "select/ReduceMean", axes=[1], keepdims=1),
        node("ReduceMax", ["out"], ["peak"], "select/ReduceMax", axes=[1], keepdims=1),
        node("Add", ["mean", "peak"], ["context"], "select/Add"),
        node("Slice", ["out", "one32", "end32", "one32", "one32"], ["spatial"], "select/Slice"),
        node("Add", ["spatial", "context"], ["scored"], "select/Add_1"),
        node("MatMul", ["scored", "score.w"], ["column"], "select/MatMul"),
        node("Squeeze", ["column", "last"], ["scores"], "select/Squeeze"),
        node("TopK", ["scores", "four"], ["best", "ids"], "freeze/TopK", axis=1),
        node("Reshape", ["ids", "as_row"], ["rows"], "freeze/Reshape"),
        node("Reshape", ["spatial", "as_table"], ["table"], "freeze/Reshape_1"),
        node("Gather", ["table", "rows"], ["kept"], "freeze/Gather", axis=0),
        node("Concat", ["kept", "kept"], ["doubled"], "freeze/Concat", axis=1),
        node("MatMul", ["doubled", "half.w"], ["worked"], "stage/MatMul"),
        node("Reshape", ["rows", "as_column"], ["places"], "thaw/Reshape"),
        node("ScatterND", ["table", "places", "worked"], ["thawed"], "thaw/ScatterND"),
        node("GatherND", ["thawed", "places"], ["again"], "thaw/GatherND"),
        node("Add", ["places", "wide_zeros"], ["wide"], "thaw/Add"),
        node("ScatterElements", ["thawed", "wide", "again"], ["restored"], "thaw/ScatterElements", axis=0),
        node("Gather", ["restored", "first"], ["cls"], "head/Gather", axis=0),
        node("Gemm", ["cls", "head.w"], ["logits"], "head/Gemm"),
    ]
    constants = {
        **{"stem.w": weights(8, 3, 2, 2), "pos": weights(1, 17, 8), "ln.w": weights(8), "ln.b": weights(8)},
        **{
            "qkv.w": weights(8, 24),
            "score.w": weights(8, 1),
            "half.w": weights(16, 8),
            "head.w": weights(8, 5),
        },
        **{"scale": np.float32(0.35), "root": np.float32(1.41)},
        **{
            "to_rows": np.array([1, 8, 16], np.int64),
            "front": np.array([0, 1, 0, 0, 0, 0], np.int64),
            "last": np.array([2], np.int64),
        },
        **{
            "thirds": np.array([8, 8, 8], np.int64),
            "four": np.array([4], np.int64),
            "first": np.array([0], np.int64),
        },
        **{
            "one32": np.array([1], np.int32),
            "end32": np.array([17], np.int32),
            "as_row": np.array([4], np.int64),
        },
        **{
            "as_table": np.array([16, 8], np.int64),
            "as_column": np.array([4, 1], np.int64),
            "wide_zeros": np.zeros((1, 8), np.int64),
        },
    }
    inputs: list[Value] = [("images", TensorProto.FLOAT, [1, 3, 8, 8])]
    outputs: list[Value] = [("logits", TensorProto.FLOAT, [1, 5])]
    return build(nodes, constants, inputs, outputs)


@pytest.fixture
def build_model() -> BuildModel:
    """Make a model of nodes, constants, inputs and outputs; x and y are (2, 8) float32 by default."""
    return build


@pytest.fixture
def tofe() -> ModelProto:
    """The reduced model with every operator that exports have, valid and clean."""
    model = build_tofe()
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def lint() -> Lint:
    """Findings of a model for a target; only those of `rule`, where it is given."""

    def run(model: ModelProto, target: str, rule: str | None = None) -> list[Finding]:
        return [found for found in lint_model(model, target) if rule in (None, found.rule)]

    return run
