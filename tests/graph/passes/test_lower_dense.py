"""Selectors and approximators fall away; what remains is the plain backbone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tofe_export.graph.passes.bind_sizes import BindSizesPass
from tofe_export.graph.passes.clean_up import CleanUpPass
from tofe_export.graph.passes.lower_dense import LowerDensePass

Toy = Any  # of conftest.py, which no test can import
Infer = Callable[..., dict[str, Any]]


def test_only_the_blocks_remain(toy: Toy) -> None:
    graph = BindSizesPass("s0", 1, [(8, 8)] * 2)(toy().graph()).graph
    graph, modified = LowerDensePass()(graph)
    assert modified
    graph = CleanUpPass()(graph).graph
    assert Counter(node.op for node in graph.nodes) == {"Mul": 2, "Add": 2, "ReduceMean": 1}
    assert not LowerDensePass()(graph).modified  # and again: nothing to do


@pytest.mark.parametrize("form", [{}, {"reuse": False, "stages": 3}, {"output": "tokens", "prefix": 0}])
@pytest.mark.parametrize("batch", [3, None])
def test_it_runs_every_token_through_every_block(
    form: dict[str, Any], batch: int | None, toy: Toy, infer: Infer
) -> None:
    made = toy(**form)
    expected = made.images
    for scale, shift in made.blocks:
        expected = expected * scale + shift
    expected = expected[:, made.prefix :] if made.output == "tokens" else expected.mean(axis=1)
    got = infer(made.bind("dense", batch=batch), {"images": made.images})[made.output]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
