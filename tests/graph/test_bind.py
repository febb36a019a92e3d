"""Any number of stages, any counts, any batch: toys against the reference's own freezers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_export.errors import BuildFailed, UsageError

Traced = Callable[[str], Any]  # by the name of a recipe in conftest.py
Toy = Any  # of conftest.py, which no test can import
Infer = Callable[..., dict[str, Any]]
Static = Callable[..., Any]
Case = Any  # conftest.Traced
Array = npt.NDArray[Any]


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("lowering", ["scatter", "concat"])
@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize(
    "form", [{}, {"reuse": False}, {"output": "tokens", "prefix": 0}, {"every_row": True, "prefix": 5}]
)
@pytest.mark.parametrize("keep", [(5, 5, 2, 1), (7, 7, 7, 7), (1, 1, 1, 1)])
def test_any_number_of_stages_and_any_counts(
    stages: int,
    lowering: str,
    batch: int | None,
    form: dict[str, Any],
    keep: tuple[int, ...],
    toy: Toy,
    static: Static,
    infer: Infer,
) -> None:
    made = toy(stages, **form)
    expected, _ = made.answer(static(keep[:stages]))
    model = made.bind(lowering, keep[:stages], batch)
    got = [infer(model, {"images": part})[made.output] for part in np.split(made.images, 3 // (batch or 3))]
    np.testing.assert_allclose(np.concatenate(got), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lowering", ["scatter", "concat"])
@pytest.mark.parametrize("batch", [3, None])
@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("tied", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_ties_keep_the_same_ids_in_every_lowering(
    lowering: str,
    batch: int | None,
    reuse: bool,
    tied: tuple[int, ...],
    toy: Toy,
    static: Static,
    infer: Infer,
) -> None:
    made = toy(3, reuse=reuse, tied=tied)
    keep = (5, 3, 2)
    feeds = {f"force_{s + 1}": np.zeros((3, k), np.int64) for s, k in enumerate(keep)}
    feeds |= {"images": made.images, "use_force": np.array([False])}
    got = infer(made.bind(lowering, keep, batch, probe=True), feeds)
    for stage, ids in enumerate(made.answer(static(keep))[1], start=1):
        np.testing.assert_array_equal(np.sort(got[f"kept_{stage}"]), np.sort(ids))


@pytest.mark.parametrize("lowering", ["scatter", "concat", "dense"])
def test_one_dynamic_graph_takes_any_batch(lowering: str, toy: Toy, infer: Infer) -> None:
    made = toy(3, output="tokens")
    model = made.bind(lowering, (5, 3, 2), None)
    expected = infer(model, {"images": made.images})["tokens"]
    for count in (1, 2, 7):
        chosen = np.arange(count) % 3
        got = infer(model, {"images": made.images[chosen]})["tokens"]
        np.testing.assert_allclose(got, expected[chosen], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [4, None])
def test_adaptive_runs_at_batch_1_alone(batch: int | None, toy: Toy) -> None:
    with pytest.raises(UsageError, match="--batch 1"):
        toy().bind("adaptive", thresholds=(0.0, 0.0), batch=batch)


def test_a_graph_that_does_not_type_check_is_a_bug(toy: Toy) -> None:
    with pytest.raises(BuildFailed, match="does not type-check"):
        toy().bind("scatter", (3, 9))  # 9 of 7 tokens: `plan_for_keep` refuses that long before
