"""Opset 17 to 19: reductions change their form, others keep theirs, what did change is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from tofe_export.errors import BuildFailed
from tofe_export.graph.passes.upgrade_opset import UpgradeOpsetPass


def graph(op: str, opset: int = 17, **attrs: object) -> gs.Graph:
    x, y = gs.Variable("x", np.float32, [2, 3, 4]), gs.Variable("y", np.float32)
    return gs.Graph([gs.Node(op, "node", dict(attrs), [x], [y])], [x], [y], opset=opset)


@pytest.mark.parametrize("op", ["ReduceMean", "ReduceMax"])
def test_axes_become_an_input(op: str) -> None:
    upgraded, modified = UpgradeOpsetPass()(graph(op, axes=[1], keepdims=0))
    assert modified
    model = gs.export_onnx(upgraded, do_type_check=False)
    assert model.opset_import[0].version == 19
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(inferred)
    assert [size.dim_value for size in inferred.graph.output[0].type.tensor_type.shape.dim] == [2, 4]


def test_what_only_grew_stays() -> None:
    upgraded, _ = UpgradeOpsetPass()(graph("Identity"))
    assert [node.op for node in upgraded.nodes] == ["Identity"]


def test_a_newer_graph_is_left_alone() -> None:
    same, modified = UpgradeOpsetPass()(graph("Identity", opset=20))
    assert (same.opset, modified) == (20, False)


def test_what_changed_its_meaning_is_refused() -> None:
    with pytest.raises(BuildFailed, match="AveragePool"):
        UpgradeOpsetPass()(graph("AveragePool", kernel_shape=[1]))
