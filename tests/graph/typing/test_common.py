"""What graphs begin with in common is computed once per image, and nothing that was seen in it is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tofe_export.graph.typing import evaluator as module
from tofe_export.graph.typing.common import Common
from tofe_export.graph.typing.evaluator import Evaluator
from tofe_export.graph.typing.half import HALVES
from tofe_export.graph.typing.islands import required
from tofe_export.graph.typing.kernels import Kernels
from tofe_export.graph.typing.magnitudes import UNMEASURED
from tofe_export.graph.typing.typed import type_graph

Array = npt.NDArray[Any]
Build = Callable[..., onnx.ModelProto]
BEFORE = ["stem", "selector/norm", "selector/scale", "selector/score", "selector/squeeze", "flatten"]


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the nodes that were computed, as they are."""
    names: list[str] = []
    compute = module._compute

    def noting(step: Any, *rest: Any) -> Any:
        names.append(step.node.name)
        return compute(step, *rest)

    monkeypatch.setattr(module, "_compute", noting)
    return names


def keeping(model: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """The selecting graph with another budget, and with another name for a constant."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.name in ("k", "flat"):
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.array([count]), tensor.name))
        if tensor.name == "w":
            tensor.name = "renamed"
    other.graph.node[0].input[1] = "renamed"
    del other.graph.value_info[:]
    other.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(other, strict_mode=True, data_prop=True)


def test_another_budget_begins_where_the_first_one_chose(
    select: Build, images: Array, tmp_path: Path, computed: list[str]
) -> None:
    model, kernels, common = select(), Kernels(17), Common()
    Evaluator(model, tmp_path, kernels, common=common).run({"images": images})
    assert computed == [node.name for node in model.graph.node]
    computed.clear()
    found = Evaluator(keeping(model, 2), tmp_path, kernels, common=common).run({"images": images})
    assert computed == [node.name for node in model.graph.node if node.name not in BEFORE]
    alone = Evaluator(keeping(model, 2), tmp_path, kernels).run({"images": images})
    assert found["logits"].tobytes() == alone["logits"].tobytes()


def test_other_images_or_weights_have_nothing_in_common(
    select: Build, images: Array, tmp_path: Path, computed: list[str]
) -> None:
    model, kernels, common = select(), Kernels(17), Common()
    first = Evaluator(model, tmp_path, kernels, common=common)
    seen = first.run({"images": images})["logits"]
    computed.clear()
    assert not np.array_equal(first.run({"images": images * 2})["logits"], seen)
    assert set(BEFORE) < set(computed)
    computed.clear()
    other = select()
    stem = next(tensor for tensor in other.graph.initializer if tensor.name == "w")
    stem.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(stem), "w"))
    found = Evaluator(other, tmp_path, kernels, common=common).run({"images": images})["logits"]
    assert set(BEFORE) < set(computed)
    assert not np.array_equal(found, seen)


def test_a_graph_that_shows_more_computes_what_was_not_kept(
    select: Build, images: Array, tmp_path: Path, computed: list[str]
) -> None:
    model, kernels, common = select(), Kernels(17), Common()
    Evaluator(model, tmp_path, kernels, common=common).run({"images": images})
    shown = select()
    shown.graph.output.append(onnx.helper.make_tensor_value_info("n2", onnx.TensorProto.FLOAT, None))
    computed.clear()
    found = Evaluator(shown, tmp_path, kernels, common=common).run({"images": images})
    assert [name for name in computed if name in BEFORE] == ["stem", "selector/norm", "selector/scale"]
    alone = Evaluator(shown, tmp_path, kernels).run({"images": images})
    assert found["n2"].tobytes() == alone["n2"].tobytes()


def test_sizes_are_known_of_what_was_not_computed_again(select: Build, images: Array, tmp_path: Path) -> None:
    model, kernels, common = select(), Kernels(17), Common()
    Evaluator(model, tmp_path, kernels, common=common).run({"images": images})  # measures nothing
    alone = Evaluator(keeping(model, 2), tmp_path, kernels)
    alone.run({"images": images}, measure=True)
    Evaluator(model, tmp_path, kernels, common=common).run({"images": images}, measure=True)
    shared = Evaluator(keeping(model, 2), tmp_path, kernels, common=common)
    shared.run({"images": images}, measure=True)
    assert shared.largest == alone.largest
    assert {"x", "n", "scores"} <= shared.largest.keys()


def test_an_overflow_is_seen_by_every_graph_that_begins_with_it(
    select: Build, images: Array, tmp_path: Path, graph_of: Any
) -> None:
    half, kernels, common = HALVES["fp16"], Kernels(17), Common()
    found = []
    for model in (select(), keeping(select(), 2)):
        typed = type_graph(model, half, required(graph_of(model), half, UNMEASURED), None, {})[0]
        evaluator = Evaluator(typed, tmp_path, kernels, common=common)
        evaluator.run({"images": np.full_like(images, 60_000)})
        assert evaluator.overflow is not None
        found.append(evaluator.overflow)
    assert found[0] == found[1]
    assert found[0].node == "stem"


def test_what_is_rounded_otherwise_is_not_the_same(
    select: Build, images: Array, tmp_path: Path, graph_of: Any, computed: list[str]
) -> None:
    model, kernels, common = select(), Kernels(17), Common()
    for half in HALVES.values():
        typed = type_graph(model, half, required(graph_of(model), half, UNMEASURED), None, {})[0]
        computed.clear()
        Evaluator(typed, tmp_path, kernels, common=common).run({"images": images})
        assert set(BEFORE) < set(computed)
