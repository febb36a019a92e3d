"""Symbols get their values everywhere, and only where they are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs
import pytest

from tofe_export.graph.passes.bind_sizes import BindSizesPass, evaluate

Toy = Any  # of conftest.py, which no test can import
Free = Any  # whatever the node takes

STATIC = ((4, 8), (3, 8))


def shapes(graph: gs.Graph) -> dict[str, list[Any]]:
    return {name: t.shape for name, t in graph.tensors().items() if isinstance(t, gs.Variable)}


@pytest.mark.parametrize(
    ("size", "values", "expected"),
    [
        (7, {"u0": 71}, 7),
        (None, {"u0": 71}, None),
        ("u0", {"u0": 71}, 71),
        ("u0 - 1", {"u0": 71}, 70),
        ("2*u0 + 3*(u1 - 1)", {"u0": 5, "u1": 3}, 16),
        ("u0 // 2", {"u0": 7}, 3),
        ("-1 + u0", {"u0": 7}, 6),
        ("s0", {"s0": "batch"}, "batch"),
        ("3*s0", {"s0": "batch"}, "3*s0"),  # a dynamic batch stays unknown in a product
        ("u0 - 1", {"u1": 3}, "u0 - 1"),
        ("Max(1, u0)", {"u0": 3}, "Max(1, u0)"),
        ("u0 % 2", {"u0": 3}, "u0 % 2"),
        ("unknown dimension", {"u0": 3}, "unknown dimension"),
    ],
)
def test_sizes_are_evaluated(size: Free, values: Mapping[str, Any], expected: Free) -> None:
    assert evaluate(size, values) == expected


def test_every_symbol_becomes_a_number(toy: Toy) -> None:
    graph, modified = BindSizesPass("s0", 2, STATIC)(toy().graph())
    assert modified
    assert all(isinstance(size, int) for shape in shapes(graph).values() for size in shape)
    assert shapes(graph)["kept0"] == [2, 4, 4]
    assert shapes(graph)["frozen1"] == [2, 8, 4]


def test_sizes_of_later_stages_follow_without_reuse(toy: Toy) -> None:
    graph, _ = BindSizesPass("s0", 1, ((4, 8), (3, 4)))(toy(reuse=False).graph())
    assert shapes(graph)["squeeze1:out"] == [1, 3]  # kept0 minus the prefix


def test_a_dynamic_batch_is_called_batch(toy: Toy) -> None:
    graph, modified = BindSizesPass("s0", None, STATIC)(toy().graph())
    assert modified
    assert {shape[0] for shape in shapes(graph).values()} == {"batch"}


def test_unknown_counts_stay_symbols(toy: Toy) -> None:
    graph, _ = BindSizesPass("s0", 1, ((None, 8), (None, 8)))(toy().graph())
    assert shapes(graph)["kept0"] == [1, "u0", 4]
    assert shapes(graph)["frozen0"] == [1, 8, 4]


def test_a_bound_graph_is_left_alone(toy: Toy) -> None:
    graph, _ = BindSizesPass("s0", 2, STATIC)(toy().graph())
    assert not BindSizesPass("s0", 2, STATIC)(graph).modified
