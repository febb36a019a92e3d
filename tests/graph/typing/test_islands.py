"""What must stay float32: found from the structure of a graph, never from constants that modules share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from tofe_export.errors import UsageError
from tofe_export.graph.typing.half import HALVES
from tofe_export.graph.typing.islands import hold_float32, required, selector_nodes, stream_nodes
from tofe_export.graph.typing.magnitudes import UNMEASURED, Magnitudes

Build = Callable[..., onnx.ModelProto]
GraphOf = Callable[[onnx.ModelProto], gs.Graph]
FP16, BF16 = HALVES["fp16"], HALVES["bf16"]
SELECTOR = ["selector/norm", "selector/scale", "selector/score", "selector/squeeze", "topk"]


def test_the_selector_is_what_only_chooses(select: Build, graph_of: GraphOf) -> None:
    assert selector_nodes(graph_of(select())) == SELECTOR
    assert hold_float32(graph_of(select())) == [*SELECTOR, "norm"]


def test_what_also_reaches_the_answer_is_no_selector(select: Build, graph_of: GraphOf) -> None:
    model = select()
    model.graph.node[9].input[0] = "n3"  # the trunk reads the selector's norm
    model.graph.node.insert(5, onnx.helper.make_node("Reshape", ["n", "rows"], ["n3"], name="leak"))
    graph = graph_of(model)
    graph.tensors()["n3"].dtype = np.float32
    assert selector_nodes(graph) == SELECTOR[1:]


def test_a_probe_only_reports(select: Build, graph_of: GraphOf) -> None:
    graph = graph_of(select())
    graph.outputs.append(graph.tensors()["scores"])
    assert selector_nodes(graph) == SELECTOR
    graph.outputs.reverse()  # now the scores are the answer
    assert "selector/score" not in selector_nodes(graph)


def test_comparisons_choose_too(build: Build, graph_of: GraphOf) -> None:
    rows: list[Any] = [
        ("score", "Mul", ["images", "w"], ["s"], {}),
        ("mask", "GreaterOrEqual", ["s", "w"], ["m"], {}),
        ("ids", "NonZero", ["m"], ["i"], {}),
        ("trunk", "Mul", ["images", "w"], ["t"], {}),
        ("end", "Where", ["m", "t", "images"], ["logits"], {}),
    ]
    model = build(rows, {"w": np.ones(3, np.float32)}, {"images": [2, 3]}, ["logits"])
    assert selector_nodes(graph_of(model)) == ["score", "mask"]


def test_reasons(select: Build, graph_of: GraphOf) -> None:
    held = required(graph_of(select()), FP16, UNMEASURED)
    assert held == dict.fromkeys([n for n in SELECTOR if n != "selector/squeeze"], "selector") | {
        "norm": "layer norm"
    }


def test_what_the_type_does_not_take(build: Build, graph_of: GraphOf) -> None:
    rows: list[Any] = [("stem", "Conv", ["images", "w"], ["c"], {}), ("relu", "Relu", ["c"], ["logits"], {})]
    model = build(rows, {"w": np.ones((2, 3, 1, 1), np.float32)}, {"images": [1, 3, 4, 4]}, ["logits"])
    assert required(graph_of(model), FP16, UNMEASURED) == {}
    held = required(graph_of(model), BF16, UNMEASURED)
    assert held == {"stem": "Conv takes no bfloat16 in opset 17"}


def test_frames_are_never_cast_to_bfloat16(build: Build, graph_of: GraphOf) -> None:
    rows: list[Any] = [
        ("frames/Cast", "Cast", ["images"], ["x"], {"to": onnx.TensorProto.FLOAT}),
        ("trunk", "Mul", ["x", "w"], ["logits"], {}),
    ]
    model = build(rows, {"w": np.ones(3, np.float32)}, {"images": [2, 3]}, ["logits"])
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    reason = "TensorRT casts uint8 to float32 and float16, not to bfloat16"
    assert required(graph_of(model), BF16, UNMEASURED) == {"frames/Cast": reason}
    assert required(graph_of(model), FP16, UNMEASURED) == {}


def test_what_is_too_large(select: Build, graph_of: GraphOf) -> None:
    graph = graph_of(select())
    sizes = dict.fromkeys(("x", "g", "r", "d", "h", "y"), 5.0) | {"u": 9000.0, "a": 8000.0}
    held = required(graph, FP16, Magnitudes(sizes, {}))
    large = {name: why for name, why in held.items() if why.startswith("magnitude")}
    assert large == dict.fromkeys(
        ["mlp/up", "mlp/relu"], "magnitude 9.0e+03 on the reference images (limit 8.2e+03)"
    )
    assert "mlp/relu" not in required(graph, FP16, Magnitudes(sizes, {}, headroom=4.0))
    assert "mlp/relu" not in required(graph, BF16, Magnitudes(sizes, {}))


def test_a_copy_is_as_large_as_what_it_copies(select: Build, graph_of: GraphOf) -> None:
    held = required(graph_of(select()), FP16, Magnitudes({"x": 1e5}, {}))  # nothing known of r and g
    assert {"stem", "flatten", "gather", "mlp/up", "sum"} <= held.keys()
    held = required(graph_of(select()), FP16, Magnitudes({"x": 1e5, "r": 1e5, "g": 1.0}, {}))
    assert "mlp/up" not in held


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (7e4, "constant of magnitude 7.0e+04"),
        (1e-6, r"constant of 1.0e-06 nearly vanishes in float16"),
        (0.0, None),
    ],
)
def test_constants_that_do_not_fit(size: float, reason: str | None, select: Build, graph_of: GraphOf) -> None:
    held = required(graph_of(select()), FP16, Magnitudes({}, {"up": size}))
    assert held.get("mlp/up") == reason


def test_what_is_asked_for(build: Build, select: Build, graph_of: GraphOf) -> None:
    graph = graph_of(select())
    assert stream_nodes(graph) == ["sum"]
    assert required(graph, FP16, UNMEASURED, ["stream"])["sum"] == "residual stream"
    held = required(graph, FP16, UNMEASURED, ["mlp/"])
    assert [name for name, why in held.items() if why == "asked for"] == [
        f"mlp/{name}" for name in ("up", "relu", "down", "half")
    ]
    rows: list[Any] = [("soft", "Softmax", ["images"], ["logits"], {})]
    attention = graph_of(build(rows, {}, {"images": [1, 3]}, ["logits"]))
    assert required(attention, FP16, UNMEASURED) == {}
    assert required(attention, FP16, UNMEASURED, ["softmax"]) == {"soft": "softmax"}
    with pytest.raises(UsageError, match=r"--float32 blocks\.99: expected softmax or stream, .*no such"):
        required(graph, FP16, UNMEASURED, ["blocks.99"])


def test_nothing_is_said_of_integers(select: Build, graph_of: GraphOf) -> None:
    held: Any = required(graph_of(select()), FP16, Magnitudes({"i": 1e9, "ids": 1e9}, {"rows": 1e9}))
    assert "ids" not in held
    assert "gather" not in held
