"""Give the budget of a conditioned model its value: each selector's bias becomes one constant.

The template computes bias + b * condition from its input `tofe.budget`. With b known, all of that is folded
here, so a bound graph has the very nodes of a model that never knew its budget. What is folded is a few
vectors per selector, which `trace` leaves inside the template for that reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs

from tofe_export.errors import BuildFailed
from tofe_export.graph.emit import detach
from tofe_export.graph.passes.base import Pass, PassResult

BUDGET_INPUT = "tofe.budget"
"""Input of a conditioned model's template: the scalar b of `model.tofe.condition_of`."""

Array = npt.NDArray[Any]

_OPERATORS: Mapping[str, Callable[..., Array]] = {"Mul": np.multiply, "Add": np.add}


class BindBudgetPass(Pass):
    """Replace the input `tofe.budget` by `b`; a template without that input stays as it is."""

    def __init__(self, b: float) -> None:
        self.b = np.array(b, np.float32)

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Fold all that depends on the budget and on weights alone, in float32 as PyTorch computes it.

        Raises:
            BuildFailed: something else than Mul and Add is computed from the budget alone.
        """
        budget = next((tensor for tensor in graph.inputs if tensor.name == BUDGET_INPUT), None)
        if budget is None:
            return PassResult(graph, False)
        graph.inputs.remove(budget)
        known = {budget.name: self.b}
        for node in list(graph.nodes):  # in execution order
            if not any(tensor.name in known for tensor in node.inputs):
                continue
            if all(isinstance(tensor, gs.Constant) or tensor.name in known for tensor in node.inputs):
                known[node.outputs[0].name] = _evaluate(node, known)
                detach([node])
            else:
                _insert(node, known)
        return PassResult(graph, True)


def _evaluate(node: gs.Node, known: Mapping[str, Array]) -> Array:
    if node.op not in _OPERATORS:
        raise BuildFailed(f"{node.name}: expected Mul or Add on the way from the budget, found {node.op}")
    values = [t.values if isinstance(t, gs.Constant) else known[t.name] for t in node.inputs]
    return _OPERATORS[node.op](*values)


def _insert(node: gs.Node, known: Mapping[str, Array]) -> None:
    """Let a node that also reads other things read constants, named after it as folded weights are."""
    for place, tensor in enumerate(node.inputs):
        if tensor.name in known:
            node.inputs[place] = gs.Constant(f"{node.name}:{place}", known[tensor.name])
