"""Triton's configuration, read by protobuf's own text parser against the fields of Triton's ModelConfig."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError
from tofe_export.triton import triton_config

protobuf = pytest.importorskip("google.protobuf.descriptor_pb2")
pool = pytest.importorskip("google.protobuf.descriptor_pool")
messages = pytest.importorskip("google.protobuf.message_factory")
text_format = pytest.importorskip("google.protobuf.text_format")

STRING, INT32, INT64, ENUM, MESSAGE = 9, 5, 3, 14, 11  # FieldDescriptorProto.Type
ONE, MANY = 1, 3  # FieldDescriptorProto.Label


@pytest.fixture(scope="module")
def schema() -> Any:
    """The part of Triton's `model_config.proto` that is used here: names, numbers and kinds of its fields."""
    file = protobuf.FileDescriptorProto(name="triton.proto", package="triton", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in ((0, "TYPE_INVALID"), (2, "TYPE_UINT8"), (10, "TYPE_FP16"), (11, "TYPE_FP32")):
        kinds.value.add(name=name, number=number)
    file.message_type.add(name="ModelDynamicBatching")
    fields: dict[str, list[tuple[str, int, int, int, str]]] = {
        "ModelInput": [
            ("name", 1, STRING, ONE, ""),
            ("data_type", 2, ENUM, ONE, ".triton.DataType"),
            ("dims", 4, INT64, MANY, ""),
        ],
        "ModelOutput": [
            ("name", 1, STRING, ONE, ""),
            ("data_type", 2, ENUM, ONE, ".triton.DataType"),
            ("dims", 3, INT64, MANY, ""),
        ],
        "ModelConfig": [
            ("name", 1, STRING, ONE, ""),
            ("platform", 2, STRING, ONE, ""),
            ("max_batch_size", 4, INT32, ONE, ""),
            ("input", 5, MESSAGE, MANY, ".triton.ModelInput"),
            ("output", 6, MESSAGE, MANY, ".triton.ModelOutput"),
            ("dynamic_batching", 11, MESSAGE, ONE, ".triton.ModelDynamicBatching"),
        ],
    }
    for message, rows in fields.items():
        made = file.message_type.add(name=message)
        for name, number, kind, label, of in rows:
            made.field.add(name=name, number=number, type=kind, label=label, type_name=of or None)
    known = pool.DescriptorPool()
    known.Add(file)
    return messages.GetMessageClass(known.FindMessageTypeByName("triton.ModelConfig"))


def parse(schema: Any, text: str) -> Any:
    return text_format.Parse(text, schema())


@pytest.mark.parametrize(
    ("backend", "platform"), [("onnxruntime", "onnxruntime_onnx"), ("tensorrt", "tensorrt_plan")]
)
def test_a_fixed_batch_is_a_model_without_batching(
    bundle: Bundle, schema: Any, backend: str, platform: str
) -> None:
    variant = replace(bundle.variant("1.50g-scatter-fp32-b4"), targets=("10.3",))
    found = parse(schema, triton_config(bundle, variant, backend))
    assert (found.name, found.platform, found.max_batch_size) == (variant.name, platform, 0)
    ((images,), (logits,)) = found.input, found.output
    assert (images.name, images.data_type, list(images.dims)) == ("images", 11, [4, 3, 8, 8])
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", 11, [4, 5])
    assert not found.HasField("dynamic_batching")


def test_a_dynamic_batch_is_left_out_of_the_dims(bundle: Bundle, schema: Any) -> None:
    variant = replace(bundle.default_variant(), batch="dyn", targets=("10.13",))
    found = parse(schema, triton_config(bundle, variant, "tensorrt"))
    assert found.max_batch_size == 32
    assert list(found.input[0].dims) == [3, 8, 8]
    assert list(found.output[0].dims) == [5]
    assert found.HasField("dynamic_batching")


def test_frames(bundle: Bundle, schema: Any) -> None:
    model = replace(bundle.manifest.model, input="uint8")
    framed = Bundle(bundle.path, replace(bundle.manifest, model=model))
    found = parse(schema, triton_config(framed, framed.default_variant(), "onnxruntime"))
    assert (found.input[0].data_type, list(found.input[0].dims)) == (2, [1, 8, 8, 3])


def test_it_says_where_the_files_belong(bundle: Bundle) -> None:
    variant = bundle.default_variant()
    lines = triton_config(bundle, replace(variant, weights=("variants/weights-1.bin",)), "onnxruntime")
    assert f"{variant.file} as models/{variant.name}/1/model.onnx, weights-1.bin beside it" in lines


def test_no_engine_of_a_graph_that_is_meant_for_none(bundle: Bundle) -> None:
    adaptive = replace(bundle.default_variant(), targets=())
    with pytest.raises(UsageError, match=r"meant for no TensorRT.*--triton onnxruntime"):
        triton_config(bundle, adaptive, "tensorrt")


def test_the_parser_refuses_other_words(bundle: Bundle, schema: Any) -> None:
    """So that the tests above mean something."""
    text = triton_config(bundle, bundle.default_variant(), "onnxruntime")
    for wrong in (text.replace("data_type", "dtype"), text.replace("TYPE_FP32", "FP32"), text + " ["):
        with pytest.raises(text_format.ParseError):
            parse(schema, wrong)
