"""Freeze and Thaw become TopK, Gather and ScatterND; the numbers are the reference's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tofe_export.graph.passes.bind_sizes import BindSizesPass
from tofe_export.graph.passes.clean_up import CleanUpPass
from tofe_export.graph.passes.lower_scatter import LowerScatterPass

Toy = Any  # of conftest.py, which no test can import
Infer = Callable[..., dict[str, Any]]
Static = Callable[..., Any]


def lowered(toy: Toy, keep: tuple[int, ...], batch: int | None) -> gs.Graph:
    graph = BindSizesPass("s0", batch, [(1 + k, 8) for k in keep])(toy.graph()).graph
    graph, modified = LowerScatterPass(keep, batch)(graph)
    assert modified
    return CleanUpPass()(graph).graph


def ops(graph: gs.Graph) -> Counter[str]:
    return Counter(node.op for node in graph.nodes)


def test_a_fixed_batch_uses_plain_gather_and_scatter(toy: Toy) -> None:
    graph = lowered(toy(), (3, 2), 2)
    assert not [node for node in graph.nodes if node.domain == "tofe"]
    assert {op: ops(graph)[op] for op in ("TopK", "Gather", "ScatterND")} == {
        "TopK": 2,
        "Gather": 2,
        "ScatterND": 1,
    }
    assert not {"GatherND", "GatherElements", "ScatterElements"} & ops(graph).keys()


def test_a_dynamic_batch_flattens_nothing(toy: Toy) -> None:
    graph = lowered(toy(), (3, 2), None)
    assert {op: ops(graph)[op] for op in ("GatherND", "ScatterElements")} == {
        "GatherND": 2,
        "ScatterElements": 1,
    }
    assert not {"Gather", "ScatterND", "Shape", "Range"} & ops(graph).keys()


def test_topk_and_scatter_are_what_tensorrt_takes(toy: Toy) -> None:
    graph = lowered(toy(), (3, 2), 2)
    topk = [node for node in graph.nodes if node.op == "TopK"]
    assert [int(node.inputs[1].values[0]) for node in topk] == [3, 2]
    assert all(node.inputs[1].values.dtype == np.int64 for node in topk)
    assert all(node.attrs == {"axis": -1, "largest": 1, "sorted": 1} for node in topk)
    assert not any("reduction" in node.attrs for node in graph.nodes)


def test_rows_are_addressed_in_int64(toy: Toy) -> None:
    graph = lowered(toy(), (3, 2), 2)
    indices = [node.inputs[1] for node in graph.nodes if node.op in ("Gather", "ScatterND")]
    assert {np.dtype(tensor.dtype) for tensor in indices} == {np.dtype(np.int64)}
    offsets = [n.inputs[1].values for n in graph.nodes if n.op == "Add" and n.inputs[1].dtype == np.int64]
    assert all(np.array_equal(values, [[1], [9]]) for values in offsets)  # image 1 starts at row 8
    assert offsets


def test_the_approximator_sees_every_row(toy: Toy) -> None:
    graph = lowered(toy(), (3, 2), 1)
    assert graph.tensors()["approximators.0/Mul:out"].inputs[0].inputs[0] is graph.inputs[0]


def test_stages_are_named_for_the_probe(toy: Toy) -> None:
    graph = BindSizesPass("s0", 1, [(4, 8), (3, 8)])(toy().graph()).graph
    names = LowerScatterPass((3, 2), 1)(graph).graph.tensors().keys()
    assert {"scores_1", "kept_1", "scores_2", "kept_2"} <= names
    assert "ids_2" not in names  # with reuse every stage scores tokens 0 .. N - 1


@pytest.mark.parametrize(
    "form", [{}, {"every_row": True}, {"reuse": False}, {"output": "tokens", "prefix": 5}]
)
def test_it_computes_what_the_reference_computes(
    form: dict[str, Any], toy: Toy, static: Static, infer: Infer
) -> None:
    made = toy(3, **form)
    expected, _ = made.answer(static((5, 3, 2)))
    got = infer(made.bind("scatter", (5, 3, 2), 3), {"images": made.images})[made.output]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_graph_without_stages_is_left_alone(toy: Toy) -> None:
    graph = lowered(toy(), (3, 2), 1)
    before = ops(graph)
    assert not LowerScatterPass((3, 2), 1)(graph).modified
    assert ops(graph) == before
