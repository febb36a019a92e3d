"""Single nodes are counted as textbooks do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from tofe_export.graph.macs import count_macs

Traced = Callable[[str], Any]  # by the name of a recipe in conftest.py


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
