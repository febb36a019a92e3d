"""On 8.6 the selectors stay in float32 by name, and a selection that would not is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tofe_export.errors import BuildFailed, UsageError
from tofe_export.trt.hold import hold_float32
from tofe_export.trt.platform import Platform


@pytest.fixture
def hold(make_platform: Callable[..., Platform], standin: Any) -> Callable[..., list[str]]:
    def run(layers: list[Any], *nodes: str) -> list[str]:
        platform = make_platform("8.6")
        return hold_float32(platform.trt, platform.features, standin.Network(layers), nodes)

    return run


def precisions(layers: list[Any]) -> dict[str, str | None]:
    return {layer.name: layer.precision for layer in layers}


def test_named_layers_and_topk_are_held_and_nothing_else(hold: Any, standin: Any) -> None:
    layers = standin.selection()
    assert hold(layers, "selector/MatMul") == ["selector/MatMul", "stage1/TopK"]
    assert precisions(layers) == {
        "block/MatMul": None,
        "selector/MatMul": "DataType.FLOAT",
        "stage1/TopK": "DataType.FLOAT",
        "head": None,
    }
    assert layers[1].output_types == {0: "DataType.FLOAT"}  # TopK reads it
    assert layers[2].output_types == {}  # nobody reads the values; the indices are integers


def test_a_node_that_becomes_several_layers(hold: Any, standin: Any) -> None:
    layers = standin.selection()
    tokens, inner = layers[0].makes[0], standin.Tensor("selector/MatMul_17_output")
    layers.insert(1, standin.Layer("selector/MatMul_17", [tokens], [inner]))
    layers[2].reads = [inner]
    assert "selector/MatMul_17" in hold(layers, "selector/MatMul")


def test_another_node_whose_name_looks_like_a_part_is_left_alone(hold: Any, standin: Any) -> None:
    layers = standin.selection()
    other = standin.Layer("selector/MatMul_17", [layers[0].makes[0]], [standin.Tensor("residual")])
    assert "selector/MatMul_17" not in hold([*layers, other], "selector/MatMul")


def test_an_unnamed_layer_is_known_by_its_outputs_name(hold: Any, standin: Any) -> None:
    layers = standin.selection()
    norm = standin.Layer(
        "(Unnamed Layer* 7) [Normalization]", [layers[0].makes[0]], [standin.Tensor("norm_1")]
    )
    assert norm.name in hold([*layers, norm], "selector/MatMul", "norm_1")


def test_everything_between_scores_and_topk_is_held(hold: Any, standin: Any) -> None:
    """As a probe's forced scores: Where(use_force, wanted, scores)."""
    layers = standin.selection()
    scores, topk = layers[1].makes[0], layers[2]
    wanted, forced = standin.Tensor("wanted"), standin.Tensor("forced")
    cast = standin.Layer("probe/Cast", [standin.Tensor("same", "BOOL")], [wanted])
    where = standin.Layer("probe/Where", [standin.Tensor("use_force", "BOOL"), wanted, scores], [forced])
    topk.reads[0] = forced
    layers[2:2] = [cast, where]
    held = hold(layers, "selector/MatMul")
    assert held == ["selector/MatMul", "probe/Cast", "probe/Where", "stage1/TopK"]
    assert where.output_types == {0: "DataType.FLOAT"}


def test_constants_and_shapes_get_no_precision(hold: Any, standin: Any) -> None:
    layers = standin.selection()
    weight = standin.Tensor("w")
    layers[1].reads.append(weight)
    layers[1].num_inputs = 2
    constant = standin.Layer("w", [], [weight], "CONSTANT")
    assert "w" in hold([*layers, constant], "selector/MatMul", "w")
    assert constant.precision is None


def test_a_selector_under_another_name_is_an_error(hold: Any, standin: Any) -> None:
    with pytest.raises(BuildFailed, match=r"stage1/TopK selects by scores that cannot be held.*'images'"):
        hold(standin.selection(), "renamed/MatMul")


def test_absent_inputs_are_no_trouble(hold: Any, standin: Any) -> None:
    layers = standin.selection()
    layers[3].reads.append(None)
    layers[3].num_inputs = 3
    assert hold(layers, "selector/MatMul", "head")[-1] == "head"


@pytest.mark.parametrize("version", ["11.4"])
def test_there_is_no_holding_by_name_on_11(
    make_platform: Callable[..., Platform], standin: Any, version: str
) -> None:
    platform = make_platform(version)
    with pytest.raises(UsageError, match=r"TensorRT 11.4.0.106 has no layer precisions"):
        hold_float32(platform.trt, platform.features, standin.Network([]), ["x"])
