"""A threshold per stage, at least one token, batch 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tofe_export.graph.passes.bind_sizes import BindSizesPass
from tofe_export.graph.passes.clean_up import CleanUpPass
from tofe_export.graph.passes.lower_adaptive import LowerAdaptivePass
from tofe_export.model.freezer import AdaptiveFreezer

Toy = Any  # of conftest.py, which no test can import
Infer = Callable[..., dict[str, Any]]

INFINITY = float("inf")


@pytest.mark.parametrize(
    "form", [{}, {"every_row": True, "prefix": 0}, {"reuse": False}, {"output": "tokens"}]
)
@pytest.mark.parametrize(
    "thresholds", [(0.1, -0.2), (INFINITY, 0.0), (-INFINITY, INFINITY), (-INFINITY, -INFINITY)]
)
def test_every_image_keeps_its_own_tokens(
    form: dict[str, Any], thresholds: tuple[float, ...], toy: Toy, infer: Infer
) -> None:
    made = toy(**form)
    model = made.bind("adaptive", thresholds=thresholds)
    everything, counts = made.images, set()
    for image in everything:
        made.images = image[None]
        expected, kept = made.answer(AdaptiveFreezer(thresholds))
        counts.add(kept[0].shape[1])
        got = infer(model, {"images": made.images})[made.output]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    if abs(thresholds[0]) == INFINITY:
        assert counts == {1 if thresholds[0] > 0 else 7}


def test_the_mask_is_named_for_the_probe(toy: Toy) -> None:
    graph = BindSizesPass("s0", 1, [(None, 8)] * 2)(toy().graph()).graph
    graph, modified = LowerAdaptivePass((0.0, 0.0))(graph)
    assert modified
    assert {"mask_1", "scores_1", "kept_1", "mask_2"} <= graph.tensors().keys()
    assert sum(node.op == "NonZero" for node in graph.nodes) == 2


def test_a_graph_without_stages_is_left_alone(toy: Toy) -> None:
    graph = BindSizesPass("s0", 1, [(None, 8)] * 2)(toy().graph()).graph
    graph = CleanUpPass()(LowerAdaptivePass((0.0, 0.0))(graph).graph).graph
    assert not LowerAdaptivePass((0.0, 0.0))(graph).modified
