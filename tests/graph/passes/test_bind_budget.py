"""The budget becomes a number, what depends on it alone becomes a constant, and nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tofe_export.errors import BuildFailed
from tofe_export.graph.passes.bind_budget import BUDGET_INPUT, BindBudgetPass

Toy = Any  # of conftest.py, which no test can import
BIAS, CONDITION = np.array([[1, 0.1, -3], [0.3, 7, 0]], np.float32)


def conditioned(shift: str = "Add") -> gs.Graph:
    """Two layers x + (bias + b * condition), the second on the output of the first; the bias is shared."""
    x = gs.Variable("x", np.float32, [2, 3])
    budget = gs.Variable(BUDGET_INPUT, np.float32, [])
    bias, nodes, inputs = gs.Constant("bias", BIAS), list[gs.Node](), [x, budget]
    for layer in ("a", "b"):
        scaled, moved, y = (gs.Variable(f"{layer}/{end}", np.float32) for end in ("scaled", "moved", "y"))
        condition = gs.Constant(f"{layer}.condition", CONDITION)
        nodes += [
            gs.Node("Mul", f"{layer}/Mul", inputs=[budget, condition], outputs=[scaled]),
            gs.Node(shift, f"{layer}/{shift}", inputs=[bias, scaled], outputs=[moved]),
            gs.Node("Add", f"{layer}/Add_2", inputs=[x, moved], outputs=[y]),
        ]
        x = y
    x.name, x.shape = "y", [2, 3]
    return gs.Graph(nodes, inputs, [x], opset=18, name="conditioned")


def test_only_the_sum_with_the_bias_remains() -> None:
    graph, modified = BindBudgetPass(-0.3)(conditioned())
    assert modified
    graph.cleanup()
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    assert [node.name for node in graph.nodes] == ["a/Add_2", "b/Add_2"]
    expected = BIAS + np.float32(-0.3) * CONDITION  # to the bit, as PyTorch computes it
    for node in graph.nodes:
        constant = node.inputs[1]
        assert constant.name == f"{node.name}:1"
        assert constant.values.dtype == np.float32
        np.testing.assert_array_equal(constant.values, expected)


def test_each_budget_binds_a_fresh_copy() -> None:
    template = conditioned()
    found = [BindBudgetPass(b)(template.copy()).graph.nodes[-1].inputs[1].values for b in (0.0, 1.0)]
    np.testing.assert_array_equal(found[0], BIAS)
    np.testing.assert_array_equal(found[1], BIAS + CONDITION)
    assert BUDGET_INPUT in [tensor.name for tensor in template.inputs]


def test_a_template_without_a_budget_stays_as_it_is(toy: Toy) -> None:
    graph = toy().graph()
    before = [(node.name, [t.name for t in node.inputs]) for node in graph.nodes]
    graph, modified = BindBudgetPass(0.5)(graph)
    assert not modified
    assert [(node.name, [t.name for t in node.inputs]) for node in graph.nodes] == before


def test_other_arithmetic_is_refused() -> None:
    with pytest.raises(BuildFailed, match=r"a/Sub: expected Mul or Add.*found Sub"):
        BindBudgetPass(0.5)(conditioned("Sub"))
