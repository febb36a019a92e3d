"""INT8 variants of every kind of backbone: no integers in forbidden places, lint, integer kernels, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tofe_export.bundle import Bundle
from tofe_export.calibration import quantizer
from tofe_export.calibration.int8 import FORMS, Pictures, Settings, add_int8
from tofe_export.errors import BundleError, UsageError
from tofe_export.graph.export import Quantizing, export
from tofe_export.graph.quantizing.quantized import floating_products, quantized_nodes
from tofe_export.graph.request import Request
from tofe_export.lint.lint import lint_model
from tofe_export.manifest import Variant
from tofe_export.verify.run import verify_bundle

Free = Any
KINDS = ("deit", "lvvit", "registers", "siglip", "no-reuse", "conditioned", "four-tied")
WEIGHTED = ("MatMul", "Gemm", "Conv")

pytestmark = pytest.mark.slow  # needs traces


def some_images(bundle: Bundle, count: int = 24) -> Pictures:
    shape = bundle.manifest.image_shape
    images = np.random.RandomState(5).standard_normal((count, *shape)).astype(np.float32)
    return Pictures([images], {"folder": "noise", "count": count, "sha256": "0" * 64})


@pytest.fixture(scope="module", params=KINDS)
def quantized(
    request: Free, traced: Free, exported: Free, pictures: Free, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Both forms of one tiny model, in several lowerings and batches."""
    case = traced(request.param)
    depthwise = request.param == "registers"
    wanted = Request(
        keep=case.keep,
        budgets=(0.2,) if case.model.structure.conditioned else (),
        lowerings=("scatter",) if depthwise else ("scatter", "concat"),
        batches=(1, 2, "dyn") if request.param in ("deit", "lvvit") else (1,),
        precisions=("fp32", "fp16"),
        output=case.recipe.output,
    )
    plain: Bundle = exported(case, tmp_path_factory.mktemp("int8") / "bundle", pictures(), wanted)
    return add_int8(plain, some_images(plain), Settings(min_agreement=0.0), tuple(FORMS))


def made(bundle: Bundle) -> list[Variant]:
    return [variant for variant in bundle.manifest.variants if variant.precision in FORMS]


def graphs(bundle: Bundle, variant: Variant) -> list[onnx.ModelProto]:
    files = [variant.file] if variant.probe is None else [variant.file, variant.probe.file]
    return [onnx.load(bundle.file(file), load_external_data=False) for file in files]


def test_every_float32_variant_has_both_forms(quantized: Bundle) -> None:
    plain = [v.name for v in quantized.manifest.variants if v.precision == "fp32"]
    names = {variant.name for variant in made(quantized)}
    assert names == {name.replace("-fp32-", f"-{form}-") for name in plain for form in FORMS}


def test_no_integers_in_forbidden_places(quantized: Bundle) -> None:
    """Read from the file alone: who reads what QuantizeLinear and DequantizeLinear make."""
    for variant in made(quantized):
        for model in graphs(quantized, variant):
            nodes, stored = model.graph.node, {tensor.name for tensor in model.graph.initializer}
            ends = {value.name for value in model.graph.output}
            readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
            for node in nodes:
                for place, name in enumerate(node.input):
                    readers.setdefault(name, []).append((node, place))
            pairs = [n for n in nodes if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
            assert len(pairs) >= 3 * 2
            for node in pairs:
                read = readers[node.output[0]]
                assert node.output[0] not in ends
                if node.op_type == "QuantizeLinear":
                    assert {reader.op_type for reader, _ in read} == {"DequantizeLinear"}
                    assert {place for _, place in read} == {0}
                else:
                    weight = node.input[0] in stored
                    assert {reader.op_type for reader, _ in read} <= set(WEIGHTED)
                    assert {place for _, place in read} == {1 if weight else 0}
                    assert not [r.name for r, _ in read if r.name.startswith(("selectors.", "stage"))]


def test_selectors_have_float32_weights(quantized: Bundle) -> None:
    for variant in made(quantized):
        for model in graphs(quantized, variant):
            types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
            chosen = [
                n
                for n in model.graph.node
                if n.name.startswith("selectors.") and n.op_type in ("MatMul", "Gemm")
            ]
            assert bool(chosen) == (not variant.dense)
            for node in chosen:
                assert types[node.input[1]] == onnx.TensorProto.FLOAT, node.name


def test_every_product_with_weights_is_in_integers_or_excluded_with_a_reason(quantized: Bundle) -> None:
    for variant in made(quantized):
        account = variant.extra["int8"]
        twin = graphs(quantized, quantized.variant(variant.extra["twin"]))[0]
        products = floating_products(twin)
        assert account["products"] == len(products) - len(account["excluded"])
        assert account["excluded"].keys() < set(products)
        assert 0 < account["share_of_macs"] < 1
        assert sorted(quantized_nodes(graphs(quantized, variant)[0])) == sorted(
            set(products) - account["excluded"].keys()
        )
        kinds = set(account["excluded"].values())
        assert ("half-precision attention" in kinds) == (variant.precision == "int8fp16")


def test_lint_is_clean_for_every_target(quantized: Bundle) -> None:
    for variant in made(quantized):
        assert bool(variant.targets)
        assert ("8.6" in variant.targets) == (variant.precision == "int8")
        for target in variant.targets:
            for file in [variant.file, *([variant.probe.file] if variant.probe else [])]:
                found = lint_model(quantized.file(file), f"trt-{target}")
                assert [f for f in found if f.severity == "error"] == [], (variant.name, target)


def test_onnxruntime_uses_integer_kernels_for_all_of_them(quantized: Bundle, tmp_path: Path) -> None:
    import onnxruntime

    for variant in made(quantized):
        if variant.precision != "int8":
            continue
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
        options.log_severity_level = 3
        path = quantized.file(variant.file)
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        optimized = onnx.load(tmp_path / "optimized.onnx", load_external_data=False)
        kinds = [node.op_type for node in optimized.graph.node]
        integer = kinds.count("MatMulIntegerToFloat") + kinds.count("QGemm")
        assert integer == variant.extra["int8"]["products"], variant.name


def test_they_are_verified(quantized: Bundle) -> None:
    report = verify_bundle(quantized, made(quantized))
    assert report.passed, [(v.name, [str(c) for c in v.failed]) for v in report.variants if not v.passed]


def test_int8_shares_one_more_weights_file(quantized: Bundle) -> None:
    used = {name for variant in made(quantized) for name in variant.weights}
    floats = [v for v in quantized.manifest.variants if v.precision in ("fp32", "fp16")]
    listed = {weights.file: weights.bytes for weights in quantized.manifest.weights}
    assert len(used - {name for variant in floats for name in variant.weights}) == 1
    quantized.check(quantized.manifest.variants)
    assert min(listed[name] for name in used) < max(listed.values()) / 2


def test_adding_again_computes_nothing(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, plain = Settings(min_agreement=0.0), [bundle.variant("dense-fp32-b1")]
    first = add_int8(bundle, some_images(bundle), settings, ("int8",), plain)

    def refuse(*given: Free) -> None:
        raise AssertionError("inference")

    monkeypatch.setattr(quantizer, "measure_ranges", refuse)
    monkeypatch.setattr(quantizer, "run_all", refuse)
    again = add_int8(first, some_images(bundle), settings, ("int8",), plain)
    assert again.manifest == first.manifest
    assert add_int8(again, None, settings, ("int8",), plain).manifest == first.manifest
    left = sorted(path.name for path in (first.path / "variants").iterdir() if "calibrating" in path.name)
    assert left == []


@pytest.mark.usefixtures("quick")
def test_an_export_makes_and_extends_int8(checkpoint: Free, pictures: Free, tmp_path: Path) -> None:
    wanted = Request(keep=(7, 5, 3), budgets=(0.021,), precisions=("int8", "int8fp16"))
    random = np.random.RandomState(2).standard_normal((8, 3, 64, 64)).astype(np.float32)
    given = Pictures([random], {"folder": "noise", "count": 8, "sha256": "1" * 64})
    how = Quantizing(Settings(min_agreement=0.0), given)
    first = export(checkpoint, wanted, tmp_path / "bundle", pictures(), quantizing=how)
    names = [variant.name for variant in first.manifest.variants if not variant.dense]
    forms = ("fp32", "fp16", "int8", "int8fp16")
    assert sorted(names) == sorted(f"0.0210g-scatter-{form}-b1" for form in forms)
    assert verify_bundle(first, first.manifest.variants).passed
    more = Request(keep=(7, 5, 3), budgets=(0.021,), batches=(2,), precisions=("int8",))
    stored = Quantizing(Settings(min_agreement=0.0))  # without pictures: the ranges are there
    second = export(checkpoint, more, tmp_path / "bundle", quantizing=stored)
    account = second.variant("0.0210g-scatter-int8-b2").extra["int8"]
    assert account == second.variant("0.0210g-scatter-int8-b1").extra["int8"]
    assert verify_bundle(second, [second.variant("0.0210g-scatter-int8-b2")]).passed


def test_without_pictures_nothing_is_traced(checkpoint: Free, tmp_path: Path) -> None:
    wanted = Request(keep=(7, 5, 3), precisions=("int8",))
    with pytest.raises(UsageError, match="--images DIR"):
        export(checkpoint, wanted, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_changed_graph_is_refused_before_anything(bundle: Bundle) -> None:
    path = bundle.file("variants/dense-fp32-b1.onnx")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match="dense-fp32-b1"):
        add_int8(bundle, some_images(bundle))


def test_a_bundle_without_half_graphs(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="fp16"):
        add_int8(bundle, some_images(bundle), precisions=("int8fp16",))
    assert Bundle.open(bundle.path).manifest == bundle.manifest
