"""Freeze and Thaw become TopK, Gather, Slice and Concat; what the form cannot express is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from tofe_export.errors import UsageError
from tofe_export.graph.passes.bind_sizes import BindSizesPass
from tofe_export.graph.passes.clean_up import CleanUpPass
from tofe_export.graph.passes.lower_concat import TOPK_LIMIT, LowerConcatPass

Toy = Any  # of conftest.py, which no test can import
Infer = Callable[..., dict[str, Any]]
Static = Callable[..., Any]


def lowered(toy: Toy, keep: tuple[int, ...], batch: int | None = 1) -> gs.Graph:
    rows = [(toy.prefix + k, toy.tokens - k) for k in keep]
    graph = BindSizesPass("s0", batch, rows)(toy.graph()).graph
    graph, modified = LowerConcatPass(keep, batch)(graph)
    assert modified
    return CleanUpPass()(graph).graph


def topk(graph: gs.Graph) -> list[int]:
    return [int(node.inputs[1].values[0]) for node in graph.nodes if node.op == "TopK"]


@pytest.mark.parametrize("batch", [1, 2, None])
def test_nothing_is_scattered(batch: int | None, toy: Toy) -> None:
    ops = Counter(node.op for node in lowered(toy(), (3, 2), batch).nodes)
    assert ops["TopK"] == 3  # a sort per stage, and one over the ids that have come back
    assert not [op for op in ops if op.startswith("Scatter")]


def test_tokens_out_are_scattered_back_once(toy: Toy) -> None:
    ops = Counter(node.op for node in lowered(toy(output="tokens"), (3, 2), 2).nodes)
    assert ops["ScatterND"] == 1


def test_only_a_stage_that_thaws_sorts_all_tokens(toy: Toy) -> None:
    first, ids, second, more_ids, last = topk(lowered(toy(3), (4, 3, 2)))
    assert (first, second, last) == (7, 7, 2)
    assert ids == more_ids == 7  # the inverse permutations
    assert topk(lowered(toy(3, reuse=False), (4, 3, 2))) == [4, 3, 2]


def test_nothing_frozen_is_not_approximated(toy: Toy) -> None:
    graph = lowered(toy(), (7, 2))
    assert not [node for node in graph.nodes if node.name.startswith("approximators")]
    assert not [tensor for tensor in graph.tensors().values() if 0 in (tensor.shape or ())]


def test_the_approximator_sees_frozen_rows_alone(toy: Toy) -> None:
    graph = lowered(toy(), (3, 2))
    rows = graph.tensors()["approximators.0/Mul:out"].inputs[0].inputs[0]
    assert rows.shape == [1, 4, 4]  # 7 - 3 tokens
    assert rows.inputs[0].op == "Gather"


def test_ids_for_the_probe_are_pruned_from_the_product(toy: Toy) -> None:
    names = lowered(toy(), (3, 2)).tensors().keys()
    assert not {"ids_2", "kept_2"} & names


@pytest.mark.parametrize(
    "form", [{}, {"every_row": True}, {"reuse": False}, {"output": "tokens", "prefix": 5}]
)
def test_it_computes_what_the_reference_computes(
    form: dict[str, Any], toy: Toy, static: Static, infer: Infer
) -> None:
    made = toy(3, **form)
    expected, _ = made.answer(static((5, 3, 2)))
    got = infer(made.bind("concat", (5, 3, 2), 3), {"images": made.images})[made.output]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_more_tokens_than_topk_takes_are_refused(toy: Toy) -> None:
    with pytest.raises(UsageError, match=r"sorts all 3840 tokens.*--lowering scatter"):
        lowered(toy(tokens=TOPK_LIMIT), (3, 2))


def test_many_tokens_are_fine_where_only_the_kept_are_sorted(toy: Toy) -> None:
    assert topk(lowered(toy(stages=1, tokens=TOPK_LIMIT), (9,))) == [9]


def test_a_convolution_over_the_grid_is_refused(toy: Toy) -> None:
    graph = toy(every_row=True).graph()
    next(node for node in graph.nodes if node.name.startswith("approximators.")).op = "Conv"
    with pytest.raises(UsageError, match=r"depthwise.*--lowering scatter"):
        LowerConcatPass((3, 2), 1)(graph)


def test_a_graph_without_stages_is_left_alone(toy: Toy) -> None:
    graph = lowered(toy(), (3, 2))
    assert not LowerConcatPass((3, 2), 1)(graph).modified
