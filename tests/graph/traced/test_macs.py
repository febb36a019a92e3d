"""What a graph runs is what the cost model says its lowering runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tofe_export.budget import Cost, macs_executed
from tofe_export.graph.macs import count_macs

Traced = Callable[[str], Any]  # by the name of a recipe in conftest.py

NAMES = ("deit", "registers", "siglip", "lvvit", "no-reuse", "four-tied")


def folded(cost: Cost, keep: tuple[int, ...]) -> int:
    """What the graph saves on the selectors' last layer: one output, z0 - z1, instead of two."""
    scored = cost.tokens * cost.stages if cost.reuse else sum((cost.tokens, *keep[:-1]))
    return int(scored * (cost.width // 4))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lowering", ["scatter", "concat", "dense"])
@pytest.mark.parametrize("batch", [1, 4, None])
def test_every_mac_is_accounted_for(name: str, lowering: str, batch: int | None, traced: Traced) -> None:
    case = traced(name)
    cost = case.model.cost()
    if lowering == "concat" and cost.approximator == "depthwise":
        pytest.skip("concat refuses it")
    output = "tokens" if case.recipe.output == "tokens" else "logits"
    expected = macs_executed(cost, case.keep, lowering, output)
    if lowering != "dense":
        expected -= folded(cost, case.keep)
    for probe in (False, True):
        assert count_macs(case.bind(lowering, batch, probe=probe), batch or 1) == expected


@pytest.mark.slow
@pytest.mark.parametrize("lowering", ["scatter", "concat"])
@pytest.mark.parametrize("share", ["least", "most"])
def test_at_the_ends_of_the_range(lowering: str, share: str, traced: Traced) -> None:
    case = traced("deit")
    keep = (1,) * 3 if share == "least" else (case.tokens,) * 3
    cost = case.model.cost()
    counted = count_macs(case.bind(lowering, keep=keep))
    assert counted == macs_executed(cost, keep, lowering) - folded(cost, keep)
