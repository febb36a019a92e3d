"""Each symptom is seen where it is, and not where it is not."""

from __future__ import annotations

import numpy as np

from tofe_export.verify import symptoms

RANDOM = np.random.RandomState(0)
SCORES = RANDOM.standard_normal((4, 60)).astype(np.float32)
KEPT = np.median(SCORES, axis=1, keepdims=True) < SCORES


def test_negated() -> None:
    assert symptoms.negated(-SCORES, SCORES, 1e-4)
    assert not symptoms.negated(SCORES, SCORES, 1e-4)


def test_rearranged() -> None:
    assert symptoms.rearranged(SCORES[:, ::-1], SCORES, 1e-4)
    assert not symptoms.rearranged(SCORES + 0.1, SCORES, 1e-4)


def test_displaced() -> None:
    assert symptoms.displaced(np.roll(SCORES, 2, axis=1), SCORES, KEPT, 1e-4) == 2
    assert symptoms.displaced(SCORES, SCORES, KEPT, 1e-4) is None


def test_keeps_lowest() -> None:
    assert symptoms.keeps_lowest(~KEPT, SCORES)
    assert not symptoms.keeps_lowest(KEPT, SCORES)
    assert not symptoms.keeps_lowest(np.ones_like(KEPT), SCORES)


def test_shift_allows_a_loss_at_the_border() -> None:
    moved = np.roll(KEPT, -1, axis=1)
    moved[:, -1] = False
    moved[:, 0] |= KEPT[:, 0]
    assert symptoms.shift(np.roll(KEPT, 1, axis=1), KEPT) == 1
    assert symptoms.shift(moved, KEPT) == -1
    assert symptoms.shift(KEPT, KEPT) is None
    assert symptoms.shift(KEPT[:, ::-1], KEPT) is None


def test_crossed() -> None:
    expected = np.stack([SCORES, RANDOM.standard_normal(SCORES.shape)], axis=1)
    noise = 0.3 * RANDOM.standard_normal(expected.shape)
    assert symptoms.crossed(expected[:, ::-1] + noise, expected, [0, 1]) == (0, 1)
    assert symptoms.crossed(expected + noise, expected, [0, 1]) is None


def test_ceiling_and_shrinking() -> None:
    assert symptoms.ceiling(np.minimum(SCORES, 1.0), SCORES) == 1.0
    assert symptoms.ceiling(np.maximum(SCORES, -1.0), SCORES) == -1.0
    assert symptoms.ceiling(SCORES * 0.9, SCORES) is None
    assert symptoms.shrinks(1.5 * np.tanh(SCORES / 1.5), SCORES)
    assert not symptoms.shrinks(SCORES * 1.02, SCORES)
    assert not symptoms.shrinks(SCORES[:, ::-1], SCORES)


def test_concentrated_errors() -> None:
    spread = SCORES + 0.01 * RANDOM.standard_normal(SCORES.shape)
    few = SCORES + 1e-5 * RANDOM.standard_normal(SCORES.shape)
    few[:, :2] += 0.1
    assert symptoms.concentrated(few, SCORES)
    assert not symptoms.concentrated(spread, SCORES)
    assert not symptoms.concentrated(SCORES, SCORES)
