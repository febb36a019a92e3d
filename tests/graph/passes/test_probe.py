"""The probe shows and forces what a graph selects, and otherwise computes the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_export.graph.passes.probe import ProbePass
from tofe_export.model.freezer import ForcedFreezer

Toy = Any  # of conftest.py, which no test can import
Infer = Callable[..., dict[str, Any]]
Static = Callable[..., Any]

Array = npt.NDArray[Any]
KEEP = (4, 3, 2)
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"every_row": True, "prefix": 0},
    {"reuse": False},
    {"output": "tokens", "reuse": False},
)


def feeds(toy: Toy, use: bool, forces: list[Array]) -> dict[str, Array]:
    named = {f"force_{s + 1}": force for s, force in enumerate(forces)}
    return {"images": toy.images, "use_force": np.array([use]), **named}


@pytest.mark.parametrize("lowering", ["scatter", "concat"])
@pytest.mark.parametrize("batch", [3, None])
@pytest.mark.parametrize("form", FORMS)
def test_it_shows_scores_and_sets(
    form: dict[str, Any], batch: int | None, lowering: str, toy: Toy, static: Static, infer: Infer
) -> None:
    made = toy(3, **form)
    expected, kept = made.answer(static(KEEP))
    unused = [np.full((3, k), 6 - k, np.int64) for k in KEEP]
    got = infer(made.bind(lowering, KEEP, batch, probe=True), feeds(made, False, unused))
    np.testing.assert_allclose(got[made.output], expected, rtol=1e-5, atol=1e-6)
    for stage, ids in enumerate(kept, start=1):
        np.testing.assert_array_equal(np.sort(got[f"kept_{stage}"]), np.sort(ids))
        entry = kept[stage - 2] if stage > 1 and not made.reuse else np.tile(np.arange(7), (3, 1))
        np.testing.assert_array_equal(np.sort(got[f"ids_{stage}"]), np.sort(entry))
        best = np.take_along_axis(got[f"ids_{stage}"], np.argsort(-got[f"scores_{stage}"]), 1)
        np.testing.assert_array_equal(np.sort(best[:, : ids.shape[1]]), np.sort(ids))
        assert got[f"ids_{stage}"].dtype == got[f"kept_{stage}"].dtype == np.int64


@pytest.mark.parametrize("lowering", ["scatter", "concat"])
@pytest.mark.parametrize("batch", [3, None])
def test_it_obeys_forced_sets_in_any_order(batch: int | None, lowering: str, toy: Toy, infer: Infer) -> None:
    made = toy(3)
    random = np.random.RandomState(0)
    forces = [np.stack([random.permutation(7)[:k] for _ in range(3)]).astype(np.int64) for k in KEEP]
    masks = [np.zeros((3, 7), np.bool_) for _ in KEEP]
    for mask, force in zip(masks, forces, strict=True):
        np.put_along_axis(mask, force, True, axis=1)
    import torch

    expected, _ = made.answer(ForcedFreezer([torch.from_numpy(mask) for mask in masks]))
    got = infer(made.bind(lowering, KEEP, batch, probe=True), feeds(made, True, forces))
    np.testing.assert_allclose(got[made.output], expected, rtol=1e-5, atol=1e-6)
    for stage, force in enumerate(forces, start=1):
        np.testing.assert_array_equal(np.sort(got[f"kept_{stage}"]), np.sort(force))


def test_an_adaptive_probe_takes_masks(toy: Toy, infer: Infer) -> None:
    made = toy(2, reuse=False)
    made.images = made.images[:1]
    model = made.bind("adaptive", thresholds=(0.0, 0.0), probe=True)
    masks = np.zeros((2, 1, 7), np.float32)
    masks[0, 0, [1, 2, 5]] = masks[1, 0, [5, 2]] = 1
    got = infer(model, feeds(made, True, list(masks)))
    assert [got["kept_1"].tolist(), got["kept_2"].tolist()] == [[[1, 2, 5]], [[2, 5]]]
    assert got["ids_2"].tolist() == [[1, 2, 5]]
    free = infer(model, feeds(made, False, list(masks)))
    assert free["kept_1"].tolist() == [
        np.flatnonzero(free["scores_1"][0] >= min(0, free["scores_1"].max())).tolist()
    ]


def test_inputs_and_outputs_have_the_promised_names_and_types(toy: Toy) -> None:
    graph = toy(2).bind("scatter", (3, 2), None, probe=True).graph
    assert [value.name for value in graph.input] == ["images", "force_1", "force_2", "use_force"]
    assert [v.name for v in graph.output] == [
        "logits",
        "scores_1",
        "ids_1",
        "kept_1",
        "scores_2",
        "ids_2",
        "kept_2",
    ]
    shapes = {
        v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*graph.input, *graph.output)
    }
    assert shapes["force_1"] == shapes["kept_1"] == ["batch", 3]
    assert shapes["ids_2"] == shapes["scores_2"] == ["batch", 7]
    assert shapes["use_force"] == [1]


def test_a_graph_without_stages_is_left_alone(toy: Toy) -> None:
    graph = toy(1).graph()  # not lowered: nothing is named yet
    before = len(graph.nodes), len(graph.inputs), len(graph.outputs)
    assert not ProbePass()(graph).modified
    assert (len(graph.nodes), len(graph.inputs), len(graph.outputs)) == before
    assert [v.name for v in toy(1).bind("dense", probe=True).graph.input] == ["images"]
