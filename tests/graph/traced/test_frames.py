"""Bundles that take camera frames: every lowering, precision and batch agrees with the same reference."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError
from tofe_export.graph.export import export
from tofe_export.graph.request import Request
from tofe_export.lint.lint import lint_model
from tofe_export.manifest import Variant
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.preprocess import frame
from tofe_export.runtime.choice import choose
from tofe_export.runtime.session import Session
from tofe_export.verify.run import verify_bundle

Free = Any
# what stands between the frames and the model: LV-ViT's stem is padded
FRONTS = {
    "deit": ["Cast", "Transpose", "Conv"],
    "lvvit": ["Cast", "Transpose", "Sub", "Conv"],
    "registers": ["Cast", "Transpose", "Conv"],
}

pytestmark = pytest.mark.slow  # needs traces


@pytest.fixture(scope="module", params=FRONTS)
def framed(request: Free, traced: Free, pictures: Free, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """All precisions and kinds of batch of one tiny model whose input is uint8."""
    case = traced(request.param)
    backbone = case.model.backbone
    classes = tuple("abcdefghij") if backbone.num_classes else None
    checkpoint = Checkpoint(case.model, backbone.preprocessing(), classes, trained=True, sha256="c" * 64)
    wanted = Request(
        keep=case.keep,
        lowerings=("scatter",) if request.param == "registers" else ("scatter", "concat", "adaptive"),
        batches=(1, "dyn"),
        precisions=("fp32", "fp16", "bf16"),
        output=case.recipe.output,
        input="uint8",
    )
    return export(checkpoint, wanted, tmp_path_factory.mktemp("framed") / request.param, pictures())


def graphs(bundle: Bundle, variant: Variant) -> list[onnx.ModelProto]:
    files = [variant.file] if variant.probe is None else [variant.file, variant.probe.file]
    return [onnx.load(bundle.file(file), load_external_data=False) for file in files]


def test_the_input_is_uint8_and_its_front_is_short(framed: Bundle) -> None:
    assert framed.manifest.model.input == "uint8"
    front = FRONTS[framed.path.name]
    for variant in framed.manifest.variants:
        for model in graphs(framed, variant):
            images = next(value for value in model.graph.input if value.name == "images")
            assert images.type.tensor_type.elem_type == TensorProto.UINT8
            sizes = [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim]
            assert sizes == ["batch" if variant.batch == "dyn" else variant.batch, *framed_size(framed), 3]
            nodes = [n for n in model.graph.node if n.name.startswith("frames/") or n.op_type == "Conv"]
            assert [node.op_type for node in nodes][: len(front)] == front, variant.name
            assert len([node for node in nodes if node.op_type != "Conv"]) == len(front) - 1


def framed_size(bundle: Bundle) -> tuple[int, int]:
    return bundle.manifest.preprocessing.size


def test_frames_are_cast_to_a_type_that_tensorrt_takes(framed: Bundle) -> None:
    """float32 or float16, never bfloat16, by the node that reads the input."""
    expected = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.FLOAT}
    for variant in framed.manifest.variants:
        for model in graphs(framed, variant):
            (reader,) = [node for node in model.graph.node if "images" in node.input]
            assert (reader.op_type, reader.attribute[0].i) == ("Cast", expected[variant.precision])


def test_the_answers_are_the_references(framed: Bundle) -> None:
    able = choose(framed, framed.manifest.variants, "onnxruntime", "cpu").variants
    assert {v.precision for v in able} == {"fp32", "fp16"}
    report = verify_bundle(framed, able)
    assert report.passed, report.text()
    half = [v for v in framed.manifest.variants if v.precision != "fp32"]
    assert all(variant.extra["evaluated"]["overflow"] is None for variant in half)


def test_frames_of_the_wrong_order_are_found(framed: Bundle) -> None:
    """The experiments of `verify` turn colours where frames have them."""
    from tofe_export.verify.case import case_of
    from tofe_export.verify.experiments import other_inputs
    from tofe_export.verify.limits import limits_for

    variant = next(v for v in framed.manifest.variants if v.dense and v.precision == "fp32")
    case = case_of(framed.manifest, variant, framed.reference())
    assert case.images.dtype == np.uint8
    assert (case.images.shape[3], case.channel_axis) == (3, 3)
    turned = replace(case, images=np.ascontiguousarray(case.images[..., ::-1]))
    with Session.open(framed, variant.name) as session:
        assert other_inputs(turned, limits_for("fp32", case.rounding), session, None) == "BGR"


def test_a_session_takes_what_preprocess_makes(framed: Bundle) -> None:
    reference, variant = framed.reference(), framed.default_variant()
    pictures = [frame(source, framed.manifest.preprocessing) for source in reference.sources[:1]]
    with Session.open(framed, variant.name) as session:
        found = session.infer({"images": np.stack(pictures)})[framed.manifest.model.output]
    np.testing.assert_allclose(found, reference.output(variant.reference)[:1], atol=1e-4, rtol=1e-4)


def test_lint_is_clean_on_all_targets(framed: Bundle) -> None:
    for variant in framed.manifest.variants:
        if variant.batch == 1 and variant.precision == "fp32" and variant.lowering != "adaptive":
            assert variant.targets == ("8.6", "10.3", "10.13", "10.16", "11.4")
        for model in graphs(framed, variant):
            for target in variant.targets:
                assert [f for f in lint_model(model, target) if f.severity == "error"] == []


def test_kinds_of_input_are_not_mixed(framed: Bundle, traced: Free) -> None:
    case = traced(framed.path.name)
    classes = framed.manifest.classes
    checkpoint = Checkpoint(case.model, framed.manifest.preprocessing, classes, trained=True, sha256="c" * 64)
    request = Request(keep=case.keep, output=case.recipe.output)
    with pytest.raises(UsageError, match=r"the input \(uint8 there, float32 here\).*--force"):
        export(checkpoint, request, framed.path)


def test_they_can_be_extended(framed: Bundle, traced: Free, tmp_path: Path) -> None:
    case = traced(framed.path.name)
    checkpoint = Checkpoint(
        case.model, framed.manifest.preprocessing, framed.manifest.classes, trained=True, sha256="c" * 64
    )
    request = Request(keep=(4, 3, 2), output=case.recipe.output, input="uint8")
    shutil.copytree(framed.path, tmp_path / "bundle")
    extended = export(checkpoint, request, tmp_path / "bundle")
    assert extended.manifest.weights == framed.manifest.weights
    (made,) = [v for v in extended.manifest.variants if v.keep == (4, 3, 2)]
    assert verify_bundle(extended, [made]).passed
