"""The form of quantised products: what ONNX Runtime turns into integer kernels, with biases behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
import pytest

from tofe_export.graph.passes.quantize import QuantizePass
from tofe_export.graph.quantizing.weights import Int8Weights, WeightSource, source_of, write_int8_weights

Array = npt.NDArray[Any]


def product(op: str, rank: int, bias: Array | None, half: bool = False, **attrs: int) -> gs.Graph:
    """x -> op with a weight (4, 3) -> Add of a bias, or the bias as Gemm's third input -> logits."""
    dtype = np.float16 if half else np.float32
    shape, sizes = ([5, 4], [5, 3]) if rank == 2 else ([1, 5, 4], [1, 5, 3])
    x, y = gs.Variable("images", dtype, shape), gs.Variable("y", dtype, sizes)
    out = gs.Variable("logits", dtype, sizes)
    values = np.arange(12, dtype=dtype).reshape(4, 3)
    weight = gs.Constant("w", np.ascontiguousarray(values.T if attrs.get("transB") else values))
    node = gs.Node(op, "product", dict(attrs), [x, weight], [y])
    nodes = [node]
    if op == "Gemm" and bias is not None:
        node.inputs.append(gs.Constant("b", bias.astype(dtype)))
    end = gs.Constant("b", bias.astype(dtype)) if bias is not None and op != "Gemm" else gs.Constant(
        "other", np.ones(3, dtype)
    )  # fmt: skip
    nodes.append(gs.Node("Add", "add", {}, [y, end], [out]))
    return gs.Graph(nodes, [x], [out], opset=19)


def quantize(graph: gs.Graph, folder: Path) -> gs.Graph:
    node = next(node for node in graph.nodes if node.name == "product")
    source = source_of(node)
    source = WeightSource(source.tensor, source.transposed, source.axis)
    digest = source.digest(folder)
    weights: Int8Weights = write_int8_weights({digest: source}, folder)
    made, modified = QuantizePass({"product": 2.54}, {"product": digest}, weights)(graph)
    assert modified
    return made


def find(graph: gs.Graph, name: str) -> gs.Node:
    return next(node for node in graph.nodes if node.name == name)


@pytest.mark.parametrize("rank", [2, 3])
def test_a_bias_is_added_where_no_gemm_can_swallow_it(rank: int, tmp_path: Path) -> None:
    made = quantize(product("MatMul", rank, np.ones(3)), tmp_path)
    node, add = find(made, "product"), find(made, "add")
    assert node.op == ("Gemm" if rank == 2 else "MatMul")
    assert len(node.inputs) == 2
    assert list(add.inputs[1].shape) == ([3] if rank == 2 else [1, 1, 3])
    assert np.array_equal(add.inputs[1].values.reshape(-1), np.ones(3))


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm_loses_its_bias_and_its_transposition(transposed: int, tmp_path: Path) -> None:
    made = quantize(product("Gemm", 2, np.full(3, 7.0), transB=transposed), tmp_path)
    node, bias = find(made, "product"), find(made, "product/bias")
    assert node.op == "Gemm"
    assert node.attrs == {}
    assert list(node.inputs[1].shape) == [4, 3]
    assert bias.op == "Add"
    assert bias.inputs[0] is node.outputs[0]
    assert (bias.inputs[1].values == 7).all()


def test_the_pair_in_front(tmp_path: Path) -> None:
    made = quantize(product("MatMul", 3, np.ones(3)), tmp_path)
    back = find(made, "product").inputs[0].inputs[0]
    forth = back.inputs[0].inputs[0]
    assert (back.op, forth.op) == ("DequantizeLinear", "QuantizeLinear")
    assert forth.inputs[0].name == "images"
    assert forth.inputs[1].values == pytest.approx(0.02, rel=1e-3)
    assert forth.inputs[2].values.dtype == np.int8
    assert forth.inputs[2].values == 0
    stored = find(made, "product").inputs[1].inputs[0]
    assert (stored.op, stored.attrs["axis"]) == ("DequantizeLinear", 1)


@pytest.mark.parametrize(("half", "dtype"), [(False, np.float32), (True, np.float16)])
def test_scales_have_the_type_of_the_activation(half: bool, dtype: type, tmp_path: Path) -> None:
    made = quantize(product("MatMul", 3, np.ones(3), half), tmp_path)
    forth = find(made, "product/QuantizeLinear")
    assert forth.inputs[1].dtype == dtype
    assert find(made, "product").inputs[1].inputs[0].inputs[1].dtype == dtype
    assert find(made, "product").inputs[0].dtype == dtype


def test_nothing_named_nothing_done(tmp_path: Path) -> None:
    graph = product("MatMul", 3, np.ones(3))
    weights = write_int8_weights({}, tmp_path)
    made, modified = QuantizePass({}, {}, weights)(graph)
    assert not modified
    assert [node.op for node in made.nodes] == ["MatMul", "Add"]
