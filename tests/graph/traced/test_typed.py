"""Half-precision variants of tiny models: types in the files, proof in the manifest, runs in ONNX Runtime."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto

from tofe_export.bundle import Bundle
from tofe_export.errors import MissingBackend
from tofe_export.graph.request import Request
from tofe_export.lint.lint import lint_model
from tofe_export.manifest import Variant
from tofe_export.runtime.choice import choose
from tofe_export.verify.limits import LIMITS
from tofe_export.verify.run import verify_bundle

Free = Any
HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
FLOATS = {TensorProto.FLOAT, *HALF.values()}

pytestmark = pytest.mark.slow  # needs traces


@pytest.fixture(scope="module", params=["deit", "lvvit", "registers"])
def typed(
    request: Free, traced: Free, exported: Free, pictures: Free, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """All precisions, lowerings and kinds of batch of one tiny model."""
    case = traced(request.param)
    wanted = Request(
        keep=case.keep,
        lowerings=("scatter",) if request.param == "registers" else ("scatter", "concat"),
        batches=(1, "dyn"),
        precisions=("fp32", "fp16", "bf16"),
        output=case.recipe.output,
    )
    bundle: Bundle = exported(case, tmp_path_factory.mktemp("typed") / "bundle", pictures(), wanted)
    return bundle


def halves(bundle: Bundle) -> list[Variant]:
    return [variant for variant in bundle.manifest.variants if variant.precision != "fp32"]


def graphs(bundle: Bundle, variant: Variant) -> list[onnx.ModelProto]:
    files = [variant.file] if variant.probe is None else [variant.file, variant.probe.file]
    return [onnx.load(bundle.file(file), load_external_data=False) for file in files]


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    graph = model.graph
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: int(value.type.tensor_type.elem_type) for value in values}
    return types | {tensor.name: int(tensor.data_type) for tensor in graph.initializer}


def test_selectors_norms_and_ends_are_float32(typed: Bundle) -> None:
    for variant in halves(typed):
        for model in graphs(typed, variant):
            types, half = types_of(model), HALF[variant.precision]
            held = [n for n in model.graph.node if n.name.startswith("selectors.") and n.op_type != "Cast"]
            assert bool(held) == (not variant.dense)
            held += [n for n in model.graph.node if n.op_type in ("LayerNormalization", "TopK")]
            for node in held:
                assert half not in {types[name] for name in (*node.input, *node.output)}, node.name
            assert not {types[v.name] for v in (*model.graph.input, *model.graph.output)} & set(HALF.values())


def test_all_large_products_are_half(typed: Bundle) -> None:
    for variant in halves(typed):
        for model in graphs(typed, variant):
            types = types_of(model)
            for node in model.graph.node:
                if node.op_type in ("MatMul", "Gemm", "Softmax") and not node.name.startswith("selectors."):
                    assert types[node.output[0]] == HALF[variant.precision], node.name
                if node.op_type == "Conv":
                    expected = TensorProto.FLOAT16 if variant.precision == "fp16" else TensorProto.FLOAT
                    assert types[node.output[0]] == expected


def test_casts_are_few(typed: Bundle) -> None:
    for variant in halves(typed):
        for model in graphs(typed, variant):
            types = types_of(model)
            casts = [
                (n.input[0], types[n.output[0]])
                for n in model.graph.node
                if n.op_type == "Cast" and {types[n.input[0]], types[n.output[0]]} <= FLOATS
            ]
            assert len(casts) == len(set(casts))
            made = {n.output[0] for n in model.graph.node if n.op_type == "Cast"}
            assert not made & {name for name, _ in casts}
            islands = sum(node.op_type in ("LayerNormalization", "Conv") for node in model.graph.node)
            assert len(casts) <= 2 * islands + 8  # into and out of every one, and the ends


def test_the_manifest_tells_what_stayed_float32(typed: Bundle) -> None:
    for variant in halves(typed):
        product = graphs(typed, variant)[0]
        twin = typed.variant(variant.extra["twin"])
        assert (twin.precision, twin.batch, twin.keep) == ("fp32", variant.batch, variant.keep)
        names = {node.name for node in product.graph.node}
        plain = {node.name for node in graphs(typed, twin)[0].graph.node}
        assert plain <= names
        held, types = variant.extra["float32_nodes"], types_of(product)
        assert held.keys() <= plain
        for node in product.graph.node:
            if node.name in plain:
                floats = {types[name] for name in node.output} & FLOATS
                assert floats <= {TensorProto.FLOAT if node.name in held else HALF[variant.precision]}
        reasons = set(held.values())
        assert reasons <= {
            "selector",
            "layer norm",
            "between float32 nodes",
            "Conv takes no bfloat16 in opset 17",
        }
        assert "8.6" not in variant.targets


def test_what_a_weakly_typed_build_must_hold(typed: Bundle) -> None:
    for variant in typed.manifest.variants:
        if variant.precision != "fp32":
            assert "hold_float32" not in variant.extra
            continue
        product = graphs(typed, variant)[0]
        held = variant.extra["hold_float32"]
        assert set(held) >= {
            n.name for n in product.graph.node if n.op_type in ("LayerNormalization", "TopK")
        }
        assert set(held) >= {n.name for n in product.graph.node if n.name.startswith("selectors.")}
        assert not [name for name in held if name.startswith("blocks.") and ".norm" not in name]
        if not variant.dense:
            probe = {node.name for node in graphs(typed, variant)[1].graph.node}
            assert {*held, *variant.extra["hold_float32_probe"]} <= probe
            assert "stage1.probe/Where" in variant.extra["hold_float32_probe"]


def test_they_were_evaluated(typed: Bundle) -> None:
    for variant in halves(typed):
        figures, limits = variant.extra["evaluated"], LIMITS[variant.precision]
        assert (figures["images"], figures["batch"], figures["overflow"]) == (3, 1, None)
        assert 1e-5 < figures["output"] < limits.output  # rounded, but not wrong
        if not variant.dense:
            assert max(figures["scores"]) < limits.scores
            assert min(figures["overlap"]) > 0.6
            assert figures["forced_output"] < limits.output


def test_bfloat16_rounds_more_than_float16(typed: Bundle) -> None:
    worst = {v.precision: v.extra["evaluated"]["output"] for v in halves(typed) if v.dense}
    assert 3 < worst["bf16"] / worst["fp16"] < 30


def test_verify_passes_where_onnxruntime_can_run_them(typed: Bundle) -> None:
    choice = choose(typed, typed.manifest.variants, "onnxruntime", "cpu")
    assert {v.precision for v in choice.variants} == {"fp32", "fp16"}
    assert choice.left_out == tuple(v.name for v in halves(typed) if v.precision == "bf16")
    assert "no bfloat16 arithmetic" in (choice.remark or "")
    assert verify_bundle(typed, [v for v in choice.variants if v.precision == "fp16"]).passed
    with pytest.raises(MissingBackend, match=r"cannot run dense-bf16-b1: .*`evaluated`.*--provider cuda"):
        choose(typed, [typed.variant("dense-bf16-b1")], "onnxruntime", "cpu")


def test_weights_are_shared(typed: Bundle) -> None:
    plain, *half = (weights.file for weights in typed.manifest.weights)
    assert len(half) == 2
    for precision, file in zip(("fp16", "bf16"), half, strict=True):
        used = {name for v in halves(typed) if v.precision == precision for name in v.weights}
        assert used <= {plain, file}
        assert file in used
    sizes = {w.file: w.bytes for w in typed.manifest.weights}
    assert all(0.4 < sizes[file] / sizes[plain] < 0.6 for file in half)


def test_lint_is_clean_on_all_targets(typed: Bundle) -> None:
    for variant in halves(typed):
        for model in graphs(typed, variant):
            for target in variant.targets:
                found = [f for f in lint_model(model, target) if f.severity == "error"]
                assert found == []
