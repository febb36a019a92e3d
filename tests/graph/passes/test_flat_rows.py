"""Tokens as rows wherever nothing looks at more than one of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from tofe_export.graph.emit import Emitter
from tofe_export.graph.passes.flat_rows import FlatRowsPass

Infer = Callable[..., dict[str, Any]]
B, T, D = 2, 5, 4
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((B, T, D)).astype(np.float32)
WEIGHT = RANDOM.standard_normal((D, D)).astype(np.float32)
GAIN, BIAS = (RANDOM.standard_normal(D).astype(np.float32) for _ in range(2))


def branch(emit: Emitter, x: gs.Tensor) -> gs.Tensor:
    """x + Linear(LayerNorm(x)) with shapes."""
    normed = emit("LayerNormalization", x, GAIN, BIAS, axis=2)
    product = emit("MatMul", normed, WEIGHT)
    summed = emit("Add", product, BIAS)
    result = emit("Add", x, summed)
    for tensor in (normed, product, summed, result):
        tensor.shape = [B, T, D]
    return result


def start(size: Any = B) -> tuple[gs.Graph, Emitter, gs.Variable]:
    x = gs.Variable("x", np.float32, [size, T, D])
    graph = gs.Graph([], [x], [], opset=17)
    return graph, Emitter(graph, "block"), x


def finish(graph: gs.Graph, *outputs: gs.Variable) -> gs.Graph:
    for i, tensor in enumerate(outputs):
        tensor.name = f"y{i}"
    graph.outputs = list(outputs)
    return graph


def model_of(graph: gs.Graph) -> onnx.ModelProto:
    model: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    model.ir_version = 8
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def two_branches() -> gs.Graph:
    graph, emit, x = start()
    return finish(graph, branch(emit, branch(emit, x)))


def test_one_reshape_before_and_one_after(infer: Infer) -> None:
    before = infer(model_of(two_branches()), {"x": X})["y0"]
    graph, modified = FlatRowsPass()(two_branches())
    assert modified
    model = model_of(graph)
    assert Counter(node.op_type for node in model.graph.node)["Reshape"] == 2
    shapes = {v.name: len(v.type.tensor_type.shape.dim) for v in model.graph.value_info}
    assert all(shapes[n.output[0]] == 2 for n in model.graph.node if n.op_type == "MatMul")
    np.testing.assert_array_equal(infer(model, {"x": X})["y0"], before)


def test_readers_of_tokens_still_get_tokens(infer: Infer) -> None:
    """A Slice, a join and a graph output read (B, T, D); a Reshape reads the rows themselves."""

    def build() -> gs.Graph:
        graph, emit, x = start()
        y = branch(emit, x)
        cut = emit.slice(y, 0, 2)
        joined = emit("Concat", y, y, axis=1)
        heads = emit.reshape(y, B, T, 2, 2)
        cut.shape, joined.shape, heads.shape = [B, 2, D], [B, 2 * T, D], [B, T, 2, 2]
        return finish(graph, y, cut, joined, heads)

    before = infer(model_of(build()), {"x": X})
    model = model_of(FlatRowsPass()(build()).graph)
    after = infer(model, {"x": X})
    for name, expected in before.items():
        np.testing.assert_array_equal(after[name], expected)
    assert Counter(node.op_type for node in model.graph.node)["Reshape"] == 3  # in, out, heads


@pytest.mark.parametrize("size", ["batch", None])
def test_unknown_sizes_stay(size: Any) -> None:
    graph, emit, x = start(size)
    normed = emit("LayerNormalization", x, GAIN, BIAS, axis=2)
    normed.shape = [size, T, D]
    assert not FlatRowsPass()(finish(graph, normed)).modified


def test_what_mixes_tokens_stays(infer: Infer) -> None:
    """A bias per token, a norm over tokens, and a product whose second factor is no weight."""

    def build() -> gs.Graph:
        graph, emit, x = start()
        positions = emit("Add", x, np.arange(T, dtype=np.float32).reshape(1, T, 1))
        normed = emit("LayerNormalization", x, np.ones((T, D), np.float32), axis=1)
        turned = emit("Transpose", x, perm=[0, 2, 1])
        product = emit("MatMul", x, turned)
        positions.shape = normed.shape = [B, T, D]
        turned.shape, product.shape = [B, D, T], [B, T, T]
        return finish(graph, positions, normed, product)

    before = infer(model_of(build()), {"x": X})
    graph, modified = FlatRowsPass()(build())
    assert not modified
    for name, found in infer(model_of(graph), {"x": X}).items():
        np.testing.assert_array_equal(found, before[name])
