"""Give the symbols of a template their values: the batch, and the token counts of every stage."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence

import onnx_graphsurgeon as gs

from tofe_export.graph.emit import FREEZE, template_nodes
from tofe_export.graph.passes.base import Pass, PassResult

DYNAMIC_BATCH = "batch"
_OPERATORS: Mapping[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


class BindSizesPass(Pass):
    """Replace symbolic dimensions on all tensors.

    `counts` holds, per stage, the rows of Freeze's outputs `kept` and `frozen`; None leaves a count symbolic
    (adaptive). `batch` is a number, or None for a dynamic batch, which is then called "batch".
    """

    def __init__(
        self, batch_symbol: str, batch: int | None, counts: Sequence[tuple[int | None, int | None]]
    ) -> None:
        self.batch_symbol, self.batch, self.counts = batch_symbol, batch, tuple(counts)

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Bind the batch and every stage's token counts."""
        values: dict[str, int | str] = {self.batch_symbol: self.batch or DYNAMIC_BATCH}
        for node in template_nodes(graph, FREEZE):
            for tensor, count in zip(node.outputs[:2], self.counts[node.attrs["stage"]], strict=True):
                if count is not None and isinstance(tensor.shape[1], str):
                    values[tensor.shape[1]] = count
        modified = False
        for tensor in graph.tensors().values():
            if isinstance(tensor, gs.Variable) and tensor.shape is not None:
                bound = [evaluate(size, values) for size in tensor.shape]
                modified |= bound != list(tensor.shape)
                tensor.shape = bound
        return PassResult(graph, modified)


def evaluate(size: int | str | None, values: Mapping[str, int | str]) -> int | str | None:
    """Size of a dimension whose symbols are (partly) known: `u0 - 1` with u0 = 71 is 70.

    Expressions that still hold an unknown symbol stay as they are.
    """
    if not isinstance(size, str):
        return size
    if size in values:
        return values[size]
    try:
        return _compute(ast.parse(size, mode="eval").body, values)
    except (SyntaxError, KeyError):
        return size


def _compute(node: ast.expr, values: Mapping[str, int | str]) -> int:
    """Evaluate integer arithmetic; KeyError for anything unknown."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name) and isinstance(value := values[node.id], int):
        return value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_compute(node.operand, values)
    if isinstance(node, ast.BinOp):
        return _OPERATORS[type(node.op)](_compute(node.left, values), _compute(node.right, values))
    raise KeyError(ast.dump(node))
