"""The FAKE itself: exactly the names of each version, nothing that pybind11 would not allow."""

from __future__ import annotations

import json
from typing import Any

import fake_tensorrt
import pytest
from fake_tensorrt import inventory
from fake_tensorrt.module import BEHAVIOURS


@pytest.fixture(params=fake_tensorrt.VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    return fake_tensorrt.install(monkeypatch, request.param)


def test_every_name_is_there_and_no_other(trt: Any) -> None:
    names = inventory.load(trt.version)
    for name, members in names["classes"].items():
        for member in members:
            if member not in inventory.SPECIAL:
                assert hasattr(getattr(trt, name), member), f"{name}.{member}"
    for name in (*names["other_classes"], *names["functions"]):
        assert hasattr(trt, name), name
    for name in ("IWishItExisted", "build_everything"):
        with pytest.raises(AttributeError, match=f"FAKE TensorRT.*has no '{name}'"):
            getattr(trt, name)


@pytest.mark.parametrize(
    ("name", "member", "versions"),
    [
        ("BuilderFlag", "FP16", ("8.6", "10.3", "10.13")),
        ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH", ("8.6", "10.3", "10.13")),
        ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED", ("10.3", "10.13", "11.4")),
        ("ILayer", "precision", ("8.6", "10.3", "10.13")),
        ("ParserError", "node_name", ("10.3", "10.13", "11.4")),
        ("DataType", "INT64", ("10.3", "10.13", "11.4")),
        ("Builder", "build_engine", ("8.6",)),
    ],
)
def test_what_tells_versions_apart(trt: Any, name: str, member: str, versions: tuple[str, ...]) -> None:
    assert hasattr(getattr(trt, name), member) is (trt.version in versions)


def test_only_properties_can_be_set(trt: Any) -> None:
    layer = trt.new("ILayer", name="layer", strong=False, precision=None, held={})
    with pytest.raises(AttributeError, match="has no 'precison' to set"):
        layer.precison = trt.DataType.FLOAT
    if trt.version == "11.4":
        with pytest.raises(AttributeError, match="has no 'precision' to set"):
            layer.precision = trt.DataType.FLOAT
    else:
        layer.precision = trt.DataType.FLOAT


def test_what_exists_and_is_not_imitated_says_so(trt: Any) -> None:
    assert hasattr(trt.IExecutionContext, "infer_shapes")
    with pytest.raises(NotImplementedError, match="FAKE TensorRT does not imitate"):
        trt.new("IExecutionContext").infer_shapes  # noqa: B018 - asking is enough


def test_every_behaviour_is_of_a_class_that_exists() -> None:
    known = {name for version in fake_tensorrt.VERSIONS for name in inventory.load(version)["classes"]}
    for behaviour in BEHAVIOURS:
        assert behaviour.__name__ in known
        members = {
            member
            for version in fake_tensorrt.VERSIONS
            for member in inventory.load(version)["classes"].get(behaviour.__name__, {})
        }
        assert {name for name in vars(behaviour) if not name.startswith("_")} <= members


def test_a_behaviour_of_another_form_is_refused() -> None:
    class Wrong:
        def num_layers(self) -> int:
            return 0

    with pytest.raises(AssertionError, match="num_layers is a property"):
        inventory.make_class("INetworkDefinition", {"num_layers": "property"}, Wrong, None)

    class Arguments:
        def get_layer(self, number: int) -> int:
            return number

    with pytest.raises(AssertionError, match="the fake takes"):
        inventory.make_class("INetworkDefinition", {"get_layer": "(index: int) -> ILayer"}, Arguments, None)


def test_enumerations_are_pybinds(trt: Any) -> None:
    assert str(trt.DataType.FLOAT) == "DataType.FLOAT"
    assert str(trt.ILogger.ERROR) == "Severity.ERROR"
    assert trt.DataType.FLOAT == trt.DataType.FLOAT != trt.DataType.HALF
    assert json.dumps(1 << int(trt.BuilderFlag.TF32))
