"""What a graph runs is what the cost model says its lowering runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from tofe_export.budget import Cost, macs_executed
from tofe_export.graph.macs import count_macs

Traced = Callable[[str], Any]  # by the name of a recipe in conftest.py

NAMES = ("deit", "registers", "siglip", "lvvit", "no-reuse", "four-tied")


def folded(cost: Cost, keep: tuple[int, ...]) -> int:
    """What the graph saves on the selectors' last layer: one output, z0 - z1, instead of two."""
    scored = cost.tokens * cost.stages if cost.reuse else sum((cost.tokens, *keep[:-1]))
    return int(scored * (cost.width // 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lowering", ["scatter", "concat", "dense"])
@pytest.mark.parametrize("batch", [1, 4, None])
def test_every_mac_is_accounted_for(name: str, lowering: str, batch: int | None, traced: Traced) -> None:
    case = traced(name)
    cost = case.model.cost()
    if lowering == "concat" and cost.approximator == "depthwise":
        pytest.skip("concat refuses it")
    output = "tokens" if case.recipe.output == "tokens" else "logits"
    expected = macs_executed(cost, case.keep, lowering, output)
    if lowering != "dense":
        expected -= folded(cost, case.keep)
    for probe in (False, True):
        assert count_macs(case.bind(lowering, batch, probe=probe), batch or 1) == expected


@pytest.mark.slow
@pytest.mark.parametrize("lowering", ["scatter", "concat"])
@pytest.mark.parametrize("share", ["least", "most"])
def test_at_the_ends_of_the_range(lowering: str, share: str, traced: Traced) -> None:
    case = traced("deit")
    keep = (1,) * 3 if share == "least" else (case.tokens,) * 3
    cost = case.model.cost()
    counted = count_macs(case.bind(lowering, keep=keep))
    assert counted == macs_executed(cost, keep, lowering) - folded(cost, keep)


def single(op: str, shapes: list[list[int | str]], out: list[int | str], **attrs: int) -> onnx.ModelProto:
    inputs = [gs.Variable(f"x{i}", np.float32, shape) for i, shape in enumerate(shapes)]
    y = gs.Variable("y", np.float32, out)
    graph = gs.Graph([gs.Node(op, "node", attrs, inputs, [y])], inputs, [y], opset=17)
    model: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    return model


@pytest.mark.parametrize(
    ("model", "batch", "expected"),
    [
        (single("MatMul", [[2, 3, 5], [5, 7]], [2, 3, 7]), 1, 2 * 3 * 5 * 7),
        (single("MatMul", [["batch", 3, 5], [5, 7]], ["batch", 3, 7]), 4, 3 * 5 * 7),
        (single("MatMul", [[1, 0, 5], [5, 7]], [1, 0, 7]), 1, 0),  # no frozen rows: nothing to do
        (single("Gemm", [[2, 5], [5, 7]], [2, 7]), 2, 5 * 7),
        (single("Gemm", [[5, 2], [5, 7]], [2, 7], transA=1), 1, 2 * 5 * 7),
        (single("Conv", [[1, 6, 8, 8], [6, 1, 3, 3]], [1, 6, 8, 8], group=6), 1, 6 * 64 * 9),
        (single("Add", [[2, 5], [2, 5]], [2, 5]), 1, 0),
    ],
)
def test_single_nodes(model: onnx.ModelProto, batch: int, expected: int) -> None:
    assert count_macs(model, batch) == expected
