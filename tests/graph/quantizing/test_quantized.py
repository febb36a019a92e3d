"""INT8 graphs: where integers are and are not, what they compute, and that a wrong placement is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tofe_export.errors import BuildFailed
from tofe_export.graph.quantizing.quantized import (
    check_quantized,
    floating_products,
    plan_for,
    quantize_graph,
    quantized_nodes,
)
from tofe_export.graph.quantizing.session import temporary_session
from tofe_export.graph.quantizing.weights import write_int8_weights
from tofe_export.lint.lint import lint_model

Free = Any
FORMS: tuple[dict[str, Any], ...] = ({}, {"flat": True}, {"flat": True, "transposed": True})
Quantize = Callable[..., onnx.ModelProto]


@pytest.fixture
def quantized(tmp_path: Path) -> Quantize:
    """Quantise a graph with ranges of 4, but the nodes named."""

    def make(model: onnx.ModelProto, without: tuple[str, ...] = (), **options: bool) -> onnx.ModelProto:
        plan = plan_for(model, tmp_path, **options)
        weights = write_int8_weights(plan.weights, tmp_path)
        ranges = {site.node: 4.0 for site in plan.placement.sites if site.node not in without}
        return quantize_graph(model, ranges, plan, weights, {"tofe.variant": "small"})

    return make


def run(model: onnx.ModelProto, images: Any, folder: Path) -> Any:
    with temporary_session(model, folder) as session:
        return np.concatenate([session.infer({"images": image[None]})["logits"] for image in images])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_site_and_no_other_product_reads_integers(
    small: Free, quantized: Quantize, form: dict[str, Any]
) -> None:
    made = quantized(small(**form))
    assert len(quantized_nodes(made)) == 8
    assert floating_products(made) == ["stem/Conv", "selectors.0/MatMul", "head/Gemm"]


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_answers_are_nearly_the_same(
    small: Free, quantized: Quantize, images: Any, tmp_path: Path, form: dict[str, Any]
) -> None:
    plain = run(small(**form), images, tmp_path)
    error = np.abs(run(quantized(small(**form)), images, tmp_path) - plain).max() / np.ptp(plain)
    assert 1e-5 < error < 0.1


def test_equal_weights_are_stored_once_and_read_by_one_node_each(
    small: Free, quantized: Quantize, images: Any, tmp_path: Path
) -> None:
    """ONNX Runtime cannot load a weight that several nodes dequantise, where it rewrites the integers."""
    model = small()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    equal = ("attn.q.weight", "attn.k.weight", "attn.proj.weight")
    for name in equal[1:]:
        weights[name].raw_data = weights[equal[0]].raw_data
    made = quantized(model)
    stored = [t for t in made.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
    assert len(stored) == 8
    assert len({tuple(entry.value for entry in tensor.external_data) for tensor in stored}) == 6
    readers = Counter(name for node in made.graph.node for name in node.input)
    back = [node for node in made.graph.node if node.input[0] in {tensor.name for tensor in stored}]
    assert [readers[node.input[0]] for node in back] == [readers[node.output[0]] for node in back] == [1] * 8
    error = np.abs(run(made, images, tmp_path) - run(model, images, tmp_path)).max()
    assert error < 0.1 * np.ptp(run(model, images, tmp_path))


def test_shared_activations_are_quantised_once(small: Free, quantized: Quantize) -> None:
    made = quantized(small())
    pairs = [node for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == 6  # q, k and v read one tensor
    assert len({node.input[0] for node in pairs}) == 6


def test_other_readers_go_on_reading_the_float(small: Free, quantized: Quantize) -> None:
    made = quantized(small())
    residual = next(node for node in made.graph.node if node.name == "attn/residual")
    assert residual.input[0] == "stem/Transpose:out"
    norm = next(node for node in made.graph.node if node.name == "selectors/norm")
    assert norm.input[0] == "attn/residual:out"


def test_float_weights_of_quantised_products_are_gone(small: Free, quantized: Quantize) -> None:
    names = {tensor.name for tensor in quantized(small()).graph.initializer}
    assert "mlp.fc1.weight" not in names
    assert "head.weight" in names


def test_what_is_left_out_stays_as_it_was(small: Free, quantized: Quantize) -> None:
    made = quantized(small(), without=("mlp.fc1/MatMul", "mlp.fc2/MatMul"))
    assert {"mlp.fc1/MatMul", "mlp.fc2/MatMul"} <= set(floating_products(made))
    assert len(quantized_nodes(made)) == 6


@pytest.mark.parametrize("target", ["trt-8.6", "trt-10.3", "trt-11.4"])
def test_lint_has_nothing_to_say(small: Free, quantized: Quantize, target: str) -> None:
    assert lint_model(quantized(small(flat=True), stem=True), target) == []


def test_onnxruntime_computes_in_integers(small: Free, quantized: Quantize, tmp_path: Path) -> None:
    """All but what shares its activation with others, as no export does: there ONNX Runtime stays float."""
    import onnxruntime

    for form in FORMS:
        (tmp_path / "q.onnx").write_bytes(quantized(small(**form)).SerializeToString())
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(tmp_path / "q.onnx", options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
        kinds = [node.op_type for node in optimized.graph.node]
        assert kinds.count("MatMulIntegerToFloat") + kinds.count("QGemm") == 8 - len("qkv")


def test_a_node_that_the_graph_does_not_have(small: Free, tmp_path: Path) -> None:
    plan = plan_for(small(), tmp_path)
    weights = write_int8_weights(plan.weights, tmp_path)
    with pytest.raises(BuildFailed, match="no/such"):
        quantize_graph(small(), {"no/such": 1.0}, plan, weights, {})


def planted(model: onnx.ModelProto, reader: str, place: int) -> onnx.ModelProto:
    """Let a node read the first dequantised activation."""
    source = next(n for n in model.graph.node if n.name.endswith("q/MatMul/DequantizeLinear"))
    node = next(n for n in model.graph.node if n.name == reader)
    node.input[place] = source.output[0]
    return model


@pytest.mark.parametrize(
    ("reader", "place"),
    [("attn/residual", 0), ("selectors/norm", 0), ("attn/scale", 0), ("select/gather", 0)],
)
def test_integers_in_a_forbidden_place_are_refused(
    small: Free, quantized: Quantize, reader: str, place: int
) -> None:
    made = quantized(small())
    check_quantized(made, ())
    with pytest.raises(BuildFailed, match=reader):
        check_quantized(planted(made, reader, place), ())


def test_a_selector_that_reads_integers_is_refused(small: Free, quantized: Quantize) -> None:
    with pytest.raises(BuildFailed, match="selector's"):
        check_quantized(quantized(small()), ["mlp.fc1/MatMul"])


def test_a_zero_point_that_is_not_zero_is_refused(small: Free, quantized: Quantize) -> None:
    made = quantized(small())
    zero = next(tensor for tensor in made.graph.initializer if tensor.name == "int8/zero")
    zero.CopyFrom(onnx.numpy_helper.from_array(np.int8(3), zero.name))
    with pytest.raises(BuildFailed, match="zero point"):
        check_quantized(made, ())
