"""Rows against numpy, through ONNX Runtime: fixed and dynamic batches, with and without a prefix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest

from tofe_export.graph.emit import Emitter
from tofe_export.graph.rows import Rows

Infer = Callable[..., dict[str, Any]]
Array = npt.NDArray[Any]

TOKENS, KEEP, WIDTH = 6, 3, 4
each_form = pytest.mark.parametrize(
    ("batch", "images", "prefix"),
    [(b, n, p) for b, n in ((1, 1), (3, 3), (None, 2)) for p in (0, 1, 5)],
)


def data(images: int, prefix: int) -> tuple[Array, Array, Array]:
    """Tokens (n, P + N, D), kept patches (n, K) and what numpy takes as row index (n, P + K)."""
    random = np.random.RandomState(0)
    x = random.standard_normal((images, prefix + TOKENS, WIDTH)).astype(np.float32)
    patches = np.stack([random.permutation(TOKENS)[:KEEP] for _ in range(images)])
    head = np.tile(np.arange(prefix), (images, 1))
    return x, patches, np.concatenate([head, patches + prefix], axis=1)


def run(
    infer: Infer,
    batch: int | None,
    build: Callable[[Emitter, Rows, list[gs.Variable]], gs.Tensor],
    *arrays: Array,
) -> Array:
    """Let `build` make a graph with an input per array, and run it."""
    size = batch or "batch"
    inputs = [gs.Variable(f"x{i}", a.dtype, [size, *a.shape[1:]]) for i, a in enumerate(arrays)]
    graph = gs.Graph([], inputs, opset=17)
    graph.outputs = [build(Emitter(graph, "rows"), Rows(batch), inputs)]
    graph.cleanup().toposort()
    model = onnx.shape_inference.infer_shapes(gs.export_onnx(graph, do_type_check=False), strict_mode=True)
    model.ir_version = 8
    (result,) = infer(model, {tensor.name: a for tensor, a in zip(inputs, arrays, strict=True)}).values()
    return np.asarray(result)


@each_form
def test_gather(batch: int | None, images: int, prefix: int, infer: Infer) -> None:
    x, patches, index = data(images, prefix)

    def build(emit: Emitter, rows: Rows, inputs: list[gs.Variable]) -> gs.Tensor:
        return rows.gather(emit, inputs[0], rows.index(emit, inputs[1], prefix, prefix + TOKENS))

    np.testing.assert_array_equal(
        run(infer, batch, build, x, patches), np.take_along_axis(x, index[..., None], 1)
    )


@each_form
def test_scatter(batch: int | None, images: int, prefix: int, infer: Infer) -> None:
    x, patches, index = data(images, prefix)
    new = np.random.RandomState(1).standard_normal((*index.shape, WIDTH)).astype(np.float32)
    expected = x.copy()
    np.put_along_axis(expected, index[..., None], new, 1)

    def build(emit: Emitter, rows: Rows, inputs: list[gs.Variable]) -> gs.Tensor:
        where = rows.index(emit, inputs[1], prefix, prefix + TOKENS)
        return rows.scatter(emit, inputs[0], where, inputs[2])

    np.testing.assert_array_equal(run(infer, batch, build, x, patches, new), expected)


@pytest.mark.parametrize(("batch", "images"), [(1, 1), (3, 3), (None, 2)])
def test_gather_ids(batch: int | None, images: int, infer: Infer) -> None:
    _, patches, _ = data(images, 0)
    ids = np.stack([np.random.RandomState(i).permutation(40)[:TOKENS] for i in range(images)])

    def build(emit: Emitter, rows: Rows, inputs: list[gs.Variable]) -> gs.Tensor:
        return rows.gather_ids(emit, inputs[0], inputs[1], TOKENS)

    got = run(infer, batch, build, ids, patches)
    np.testing.assert_array_equal(got, np.take_along_axis(ids, patches, 1))
    assert got.dtype == np.int64


def test_what_needs_no_arithmetic_gets_none() -> None:
    graph = gs.Graph([], opset=17)
    patches = gs.Variable("patches", np.int64, [1, KEEP])
    assert Rows(1).index(Emitter(graph, "rows"), patches, 0, TOKENS) is patches
    assert Rows(None).index(Emitter(graph, "rows"), patches, 0, TOKENS) is patches
    assert not graph.nodes


def test_offsets_are_int64_and_fit_large_batches() -> None:
    graph = gs.Graph([], opset=17)
    patches = gs.Variable("patches", np.int64, [128, KEEP])
    Rows(128).index(Emitter(graph, "rows"), patches, 1, 577)
    offsets = [
        tensor.values for node in graph.nodes for tensor in node.inputs if isinstance(tensor, gs.Constant)
    ]
    assert all(values.dtype == np.int64 for values in offsets)
    assert offsets[0][-1, 0] == 127 * 577 + 1
