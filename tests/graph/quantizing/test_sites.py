"""Sites are found by form: what is left out and what belongs together, however the graph is written."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from tofe_export.graph.quantizing.sites import ATTENTION, CONVOLUTION, HEAD, SELECTOR, Placement, place

Free = Any
FORMS: tuple[dict[str, Any], ...] = ({}, {"flat": True}, {"flat": True, "transposed": True}, {"batch": 3})


def placed(model: onnx.ModelProto, **options: bool) -> Placement:
    return place(gs.import_onnx(model), **options)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_what_is_quantised_and_what_is_not(small: Free, form: dict[str, Any]) -> None:
    found = placed(small(**form))
    names = [site.node.rpartition("/")[0] for site in found.sites]
    assert names == [
        *("attn.q", "attn.k", "attn.v", "attn.proj"),
        *("approximators.0.fc1", "approximators.0.fc2", "mlp.fc1", "mlp.fc2"),
    ]
    assert found.excluded == {
        "stem/Conv": CONVOLUTION,
        "selectors.0/MatMul": SELECTOR,
        "head/Gemm": HEAD,
    }


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_units_go_together(small: Free, form: dict[str, Any]) -> None:
    found = placed(small(**form))
    units = {site.node.rpartition("/")[0]: site.unit for site in found.sites}
    assert {units[f"attn.{name}"] for name in ("q", "k", "v", "proj")} == {"attn.q/MatMul"}
    assert units["mlp.fc1"] == units["mlp.fc2"] != units["approximators.0.fc1"]
    assert units["approximators.0.fc1"] == units["approximators.0.fc2"]
    assert len(found.units) == 3
    left = found.without([units["mlp.fc1"]])
    assert [site.node for site in found.sites if site not in left] == [
        site.node for site in found.sites if site.node.startswith("mlp")
    ]


def test_in_half_precision_attention_stays_half(small: Free) -> None:
    found = placed(small(), half=True)
    assert not [site for site in found.sites if site.node.startswith("attn")]
    assert [name for name, why in found.excluded.items() if why == ATTENTION] == [
        f"attn.{name}/MatMul" for name in ("q", "k", "v", "proj")
    ]


def test_the_stem_is_an_option(small: Free) -> None:
    assert "stem/Conv" in {site.node for site in placed(small(), stem=True).sites}


def test_depthwise_convolutions_never() -> None:
    weight = gs.Constant("w", np.ones((4, 1, 3, 3), np.float32))
    x, y = gs.Variable("images", np.float32, [1, 4, 8, 8]), gs.Variable("y", np.float32, [1, 4, 6, 6])
    z = gs.Variable("logits", np.float32, [1, 4, 6, 6])
    nodes = [gs.Node("Conv", "dw", {"group": 4}, [x, weight], [y]), gs.Node("Softmax", "s", {}, [y], [z])]
    graph = gs.Graph(nodes, [x], [z], opset=17)
    assert place(graph, stem=True).excluded == {"dw": CONVOLUTION}


@pytest.mark.parametrize("attrs", [{"transA": 1}, {"alpha": 0.5}, {"beta": 2.0}], ids=str)
def test_a_gemm_that_is_not_understood_is_no_site(small: Free, attrs: dict[str, Any]) -> None:
    graph = gs.import_onnx(small(flat=True))
    node = next(node for node in graph.nodes if node.name == "mlp.fc1/Gemm")
    node.attrs |= attrs
    assert node.name not in {site.node for site in place(graph).sites}
    assert node.name not in place(graph).excluded


def test_a_unit_that_ends_in_the_head_stays_float_as_a_whole() -> None:
    """An MLP whose sum with the stream is the answer itself, as in pooling by attention."""
    rows: list[gs.Node] = []
    x = gs.Variable("images", np.float32, [2, 4])
    hidden, active = gs.Variable("h", np.float32, [2, 4]), gs.Variable("a", np.float32, [2, 4])
    out, answer = gs.Variable("o", np.float32, [2, 4]), gs.Variable("features", np.float32, [2, 4])
    weights = [gs.Constant(name, np.ones((4, 4), np.float32)) for name in "uv"]
    rows.append(gs.Node("MatMul", "up", {}, [x, weights[0]], [hidden]))
    rows.append(gs.Node("Erf", "gelu", {}, [hidden], [active]))
    rows.append(gs.Node("MatMul", "down", {}, [active, weights[1]], [out]))
    rows.append(gs.Node("Add", "sum", {}, [x, out], [answer]))
    found = place(gs.Graph(rows, [x], [answer], opset=17))
    assert found.sites == ()
    assert found.excluded == {"up": HEAD, "down": HEAD}


def test_an_answer_that_is_the_residual_stream_is_not_all_head(small: Free) -> None:
    """Tokens of a model without a norm at the end: only what was added last is the head."""
    graph = gs.import_onnx(small())
    stream = next(node for node in graph.nodes if node.name == "thaw/Concat").outputs[0]
    graph.outputs = [stream]
    graph.cleanup()
    found = place(graph)
    names = {site.node.rpartition("/")[0] for site in found.sites}
    assert names == {"attn.q", "attn.k", "attn.v", "attn.proj"}
    head = {name.rpartition("/")[0] for name, why in found.excluded.items() if why == HEAD}
    assert head == {"mlp.fc1", "mlp.fc2", "approximators.0.fc1", "approximators.0.fc2"}
