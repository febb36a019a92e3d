"""What an engine says of its precision is read in every form, and judged strictly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import PrecisionError
from tofe_export.fields import Fields
from tofe_export.trt.inspect import Layers, Verdict, judge, layer_precision, read_layers, require
from tofe_export.trt.platform import Platform
from tofe_export.trt.request import BuildOptions, Job, make_job

MB = 1_000_000


@pytest.mark.parametrize(
    ("layer", "precision"),
    [
        ({"Outputs": [{"Format/Datatype": "Half"}]}, "fp16"),  # 8.6, 10.x without a context
        ({"Outputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]}, "fp16"),
        ({"Outputs": [{"Format/Datatype": "Row major linear FP32"}]}, "fp32"),
        ({"Outputs": [{"Format/Datatype": "Row major linear BFloat16 format"}]}, "bf16"),
        ({"Outputs": [{"Format/Datatype": "Row major Int8 format"}]}, "int8"),
        ({"Outputs": [{"Format/Datatype": "Int32"}]}, None),
        ({"Inputs": [{"Format/Datatype": "UInt8"}], "Outputs": [{"Format/Datatype": "Float"}]}, "fp32"),
        ({"Inputs": [{"Format/Datatype": "Half"}], "Outputs": [{"Format/Datatype": "Float"}]}, "fp16"),
        ({"Outputs": [{"Format": "Row major linear", "DataType": "Half"}]}, "fp16"),  # 11.x
        ({"Outputs": [{"Format": "Row major linear FP32 format (kLINEAR)"}]}, "fp32"),
        ({"Precision": "FP16", "Outputs": [{"Format/Datatype": "Float"}]}, "fp16"),
        ({"Outputs": "none", "Inputs": [3]}, None),
        ({}, None),
    ],
)
def test_layer_precision(layer: dict[str, Any], precision: str | None) -> None:
    assert layer_precision(layer) == precision


def information(*layers: dict[str, Any], **more: Any) -> str:
    return json.dumps({"Layers": list(layers), **more})


def tensor(dtype: str) -> dict[str, Any]:
    return {"Outputs": [{"Format/Datatype": dtype}]}


@pytest.mark.parametrize(
    "more",
    [{"Bindings": ["images", "logits"]}, {"I/O Tensors": [{"Name": "images", "DataType": "Float"}]}],
    ids=["10.x", "11.x"],
)
def test_layers_are_counted(more: dict[str, Any]) -> None:
    text = information(
        {"Name": "a", **tensor("Half")},
        {"Name": "b", "LayerType": "kgen", **tensor("Float")},
        {"Name": "topk", **tensor("Int32")},
        {"Name": "{ForeignNode[x...y]}", "LayerType": "Myelin", **tensor("Half")},
        {"Name": "r", "LayerType": "Reformat", **tensor("Float")},
        {"Name": "w", "LayerType": "Constant", **tensor("Float")},
        **more,
    )
    layers = read_layers(text)
    assert layers == Layers({"fp16": 2, "fp32": 1}, 1, 1, "engine inspector")
    assert layers.share("fp16") == pytest.approx(2 / 3)
    assert Layers.read(Fields(json.loads(json.dumps(vars(layers))), "")) == layers


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ('{"Layers": ["a + b", "c"]}', "the inspector gave layer names only"),
        ("", "the inspector's answer cannot be read: JSONDecodeError"),
        ('{"Engine": 1}', "cannot be read: KeyError"),
        ("[]", "cannot be read: TypeError"),
        ('{"Layers": null}', "cannot be read: TypeError"),
    ],
)
def test_what_the_inspector_does_not_tell(text: str, source: str) -> None:
    layers = read_layers(text)
    assert layers.counts == {}
    assert source in layers.source
    assert layers.share("fp16") == 0


@pytest.fixture
def job_of(typed_bundle: Bundle, make_platform: Callable[..., Platform]) -> Callable[[str, str], Job]:
    def make(version: str, precision: str) -> Job:
        variant = typed_bundle.variant(f"2.00g-scatter-{precision}-b1")
        return make_job(typed_bundle, variant, make_platform(version).features, BuildOptions())

    return make


@pytest.mark.parametrize(
    ("precision", "network", "counts", "expected"),
    [
        ("fp16", {"fp16": 80, "fp32": 20}, {"fp16": 9}, "honoured"),
        ("fp16", {"fp16": 80, "fp32": 20}, {}, "honoured"),  # the types are the proof
        ("fp16", {"fp32": 100}, {"fp16": 9}, "not honoured"),
        ("bf16", {"fp16": 100}, {}, "not honoured"),
        ("fp32", {"fp32": 100}, {}, "honoured"),
        ("fp32", {"fp32": 100, "fp16": 1}, {"fp32": 9}, "not honoured"),
    ],
)
def test_strong_typing_is_proven_by_the_network(
    job_of: Any, precision: str, network: dict[str, int], counts: dict[str, int], expected: Verdict
) -> None:
    layers = Layers(counts, 0, 0, "engine inspector")
    assert judge(job_of("10.3", precision), layers, network, 0, 0) == expected


@pytest.mark.parametrize(
    ("precision", "counts", "opaque", "plan", "weights", "expected"),
    [
        ("fp16", {"fp16": 8, "fp32": 2}, 0, 90 * MB, 88 * MB, "honoured"),
        ("fp16", {"fp16": 1, "fp32": 3}, 0, 0, 0, "honoured"),
        ("fp16", {"fp16": 1, "fp32": 4}, 0, 0, 0, "not honoured"),
        ("fp16", {"fp32": 9}, 0, 0, 0, "not honoured"),
        ("fp16", {}, 0, 0, 0, "not provable"),
        ("fp16", {"fp16": 2}, 1, 47 * MB, 88 * MB, "honoured"),
        ("fp16", {"fp16": 2}, 1, 90 * MB, 88 * MB, "not honoured"),  # float32 weights inside the opaque layer
        ("fp16", {"fp16": 2}, 1, 9 * MB, 2 * MB, "honoured"),  # too small a model for that sign
        ("fp32", {"fp32": 9}, 1, 90 * MB, 88 * MB, "honoured"),
        ("fp32", {}, 0, 0, 0, "honoured"),  # nothing allowed anything else
        ("fp32", {"fp32": 9, "fp16": 1}, 0, 0, 0, "not honoured"),
    ],
)
def test_weak_typing_is_judged_by_the_engine(
    job_of: Any,
    precision: str,
    counts: dict[str, int],
    opaque: int,
    plan: int,
    weights: int,
    expected: Verdict,
) -> None:
    layers = Layers(counts, 0, opaque, "engine inspector")
    assert judge(job_of("8.6", precision), layers, {}, plan, weights) == expected


@pytest.mark.parametrize(
    ("network", "counts", "expected"),
    [
        (
            {"int8": 20, "fp32": 200},
            {"int8": 30, "fp32": 170},
            "honoured",
        ),  # few layers are quantised, all are
        ({"int8": 20, "fp32": 200}, {"int8": 10, "fp32": 190}, "honoured"),
        ({"int8": 20, "fp32": 200}, {"int8": 9, "fp32": 191}, "not honoured"),
        ({"int8": 20, "fp32": 200}, {"fp32": 200}, "not honoured"),
        ({"fp32": 200}, {"int8": 90, "fp32": 10}, "not honoured"),  # nothing was asked for in the graph
        ({"int8": 20}, {}, "not provable"),
    ],
)
def test_int8_is_judged_by_what_the_graph_quantises(
    job_of: Any, network: dict[str, int], counts: dict[str, int], expected: Verdict
) -> None:
    job = job_of("8.6", "fp16")
    quantised = replace(job, variant=replace(job.variant, precision="int8"))
    layers = Layers(counts, 0, 0, "engine inspector")
    assert judge(quantised, layers, network, 0, 0) == expected


def test_what_was_not_honoured_is_an_error(job_of: Any) -> None:
    layers = Layers({"fp32": 9}, 0, 0, "engine inspector")
    job = job_of("8.6", "fp16")
    require(job, "honoured", layers, {})
    with pytest.raises(PrecisionError, match=r"fp16 was asked for and was not honoured.*9 fp32") as caught:
        require(job, "not honoured", layers, {"fp32": 50})
    assert caught.value.exit_code == 7
    assert "No engine was written" in str(caught.value)
    with pytest.raises(PrecisionError, match=r"was not provable.*no types \(names only\)"):
        require(job, "not provable", Layers({}, 0, 0, "names only"), {})
    with pytest.raises(PrecisionError, match="The graph is not what its name says: export it again"):
        require(job_of("11.4", "fp16"), "not honoured", layers, {"fp32": 50})
