"""Which differences of kept sets rounding explains."""

from __future__ import annotations

import numpy as np
import pytest

from tofe_export.verify.sets import Swap, cut, first_swaps, margins, overlap

SCORES = np.array([[[0.9, 0.5, 0.4, 0.1]]], np.float32)  # one image, one stage
KEPT = np.array([[[True, True, False, False]]])


def swap(
    found: list[float], kept: list[bool], thresholds: tuple[float, ...] | None = None, limit: float = 1.0
) -> Swap | None:
    (one,) = first_swaps(SCORES, KEPT, np.array([[found]], np.float32), np.array([[kept]]), thresholds, limit)
    return one


def test_equal_sets_have_no_swap() -> None:
    assert swap([0.9, 0.5, 0.4, 0.1], [True, True, False, False]) is None


def test_a_swap_within_twice_the_score_error_is_explained() -> None:
    one = swap([0.9, 0.44, 0.46, 0.1], [True, False, True, False])
    assert one is not None
    assert (one.stage, one.lost, one.gained) == (0, (1,), (2,))
    assert one.distance == pytest.approx(0.1)
    assert one.allowed == pytest.approx(0.12)
    assert one.explained


def test_a_score_error_beyond_the_limit_explains_no_more_than_the_limit() -> None:
    one = swap([0.9, 0.44, 0.46, 0.1], [True, False, True, False], limit=0.05)
    assert one is not None
    assert one.allowed == pytest.approx(0.08)
    assert not one.explained


@pytest.mark.parametrize(
    "kept",
    [
        [True, False, True, False],  # the scores agree, the set does not
        [False, False, True, True],  # the lowest scores
        [True, False, False, True],  # a token far from the cut
    ],
)
def test_a_swap_that_scores_do_not_explain(kept: list[bool]) -> None:
    one = swap([0.9, 0.5, 0.41, 0.1], kept)
    assert one is not None
    assert not one.explained


def test_keeping_a_token_that_was_not_scored_is_never_explained() -> None:
    scores = np.array([[[0.9, 0.5, np.nan]]], np.float32)
    (one,) = first_swaps(
        scores, np.array([[[True, False, False]]]), scores, np.array([[[False, False, True]]]), None, 1.0
    )
    assert one is not None
    assert one.distance == np.inf
    assert not one.explained


def test_only_the_first_stage_that_differs_counts() -> None:
    scores, kept = np.repeat(SCORES, 3, 1), np.repeat(KEPT, 3, 1)
    found = kept.copy()
    found[0, 1:] = found[0, 1:, ::-1]
    (one,) = first_swaps(scores, kept, scores, found, None, 1.0)
    assert one is not None
    assert one.stage == 1


def test_the_cut_of_a_threshold_is_the_threshold_or_the_best_score() -> None:
    row = SCORES[0, 0].astype(np.float64)
    assert cut(row, KEPT[0, 0], 0.45) == (0.45, 0.45)
    assert cut(row, KEPT[0, 0], 2.0) == (row[0], row[0])
    assert cut(row, KEPT[0, 0], None) == (row[2], row[1])
    assert cut(row, np.ones(4, bool), None) == (row[3], row[3])


def test_a_token_near_the_threshold_may_come_in_alone() -> None:
    one = swap([0.9, 0.5, 0.46, 0.1], [True, True, True, False], (0.45,))
    assert one is not None
    assert one.explained
    far = swap([0.9, 0.5, 0.4, 0.1], [True, True, False, True], (0.45,))
    assert far is not None
    assert not far.explained


def test_margin_and_overlap() -> None:
    assert margins(SCORES, KEPT, None)[0, 0] == pytest.approx(0.1 / 0.8)
    assert margins(SCORES, KEPT, (0.47,))[0, 0] == pytest.approx(0.03 / 0.8, rel=1e-5)
    assert overlap(np.array([[[True, False, True, False]]]), KEPT).tolist() == [[0.5]]
