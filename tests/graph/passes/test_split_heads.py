"""Q, K and V at batch 1, in the form that matrix products read without a copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest

from tofe_export.graph.emit import int64
from tofe_export.graph.passes.split_heads import SplitHeadsPass

Infer = Callable[..., dict[str, Any]]
T, H, D = 7, 3, 4


def attention(batch: int, parts: int = 3) -> gs.Graph:
    """Heads brought forward as the template does it, and what attention makes of Q and K."""
    rows = gs.Variable("rows", np.float32, [batch, T, parts * H * D])
    split, forward = (
        gs.Variable("split", np.float32, [batch, T, parts * H, D]),
        gs.Variable("forward", np.float32, [batch, parts * H, T, D]),
    )
    nodes = [
        gs.Node(
            "Reshape", "attn/Reshape", inputs=[rows, gs.Constant("s", int64(*split.shape))], outputs=[split]
        ),
        gs.Node("Transpose", "attn/Transpose", {"perm": [0, 2, 1, 3]}, inputs=[split], outputs=[forward]),
    ]
    heads = [forward]
    if parts > 1:
        heads = [gs.Variable(f"part{i}", np.float32, [batch, H, T, D]) for i in range(parts)]
        sizes = gs.Constant("sizes", int64(*[H] * parts))
        nodes.append(gs.Node("Split", "attn/Split", {"axis": 1}, inputs=[forward, sizes], outputs=heads))
    turned = gs.Variable("turned", np.float32, [batch, H, D, T])
    y = gs.Variable("y", np.float32, [batch, H, T, T])
    k = heads[min(1, parts - 1)]
    nodes += [
        gs.Node("Transpose", "attn/Transpose_2", {"perm": [0, 1, 3, 2]}, inputs=[k], outputs=[turned]),
        gs.Node("MatMul", "attn/MatMul", inputs=[heads[0], turned], outputs=[y]),
    ]
    return gs.Graph(nodes, [rows], [y], opset=17)


def model_of(graph: gs.Graph) -> onnx.ModelProto:
    model: onnx.ModelProto = gs.export_onnx(graph.cleanup().toposort(), do_type_check=False)
    model.ir_version = 8
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def transposes(model: onnx.ModelProto, folder: Path) -> int:
    """How many copies ONNX Runtime is left with."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    nodes = onnx.load(options.optimized_model_filepath).graph.node
    return sum(node.op_type == "Transpose" for node in nodes)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_same_numbers_without_copies(parts: int, infer: Infer, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((1, T, parts * H * D)).astype(np.float32)
    graph, modified = SplitHeadsPass()(attention(1, parts))
    before, after = model_of(attention(1, parts)), model_of(graph)
    assert modified
    np.testing.assert_array_equal(infer(after, {"rows": x})["y"], infer(before, {"rows": x})["y"])
    assert transposes(after, tmp_path) == 0 < transposes(before, tmp_path)


def test_larger_batches_stay() -> None:
    graph = attention(2)
    before = [node.name for node in graph.nodes]
    assert not SplitHeadsPass()(graph).modified
    assert [node.name for node in graph.nodes] == before


def test_unknown_sizes_stay() -> None:
    graph = attention(1)
    graph.nodes[1].inputs[0].shape = [1, "tokens", 3 * H, D]
    assert not SplitHeadsPass()(graph).modified
