"""Errors in units of the reference's range."""

from __future__ import annotations

import numpy as np
import pytest

from tofe_export.verify.compare import compare, errors, not_finite, span


def test_errors_are_fractions_of_the_references_range() -> None:
    expected = np.array([[0.0, 10.0], [0.0, 2.0]], np.float32)
    found = expected + np.array([[0.0, 1.0], [0.5, 0.0]], np.float32)
    np.testing.assert_allclose(errors(found, expected), [[0, 0.1], [0.25, 0]], atol=1e-7)


def test_an_almost_constant_row_is_measured_by_its_magnitude() -> None:
    assert span(np.array([[5.0, 5.0]])) == pytest.approx([0.5])
    assert span(np.zeros((1, 3))) == pytest.approx([1.0])


def test_missing_on_both_sides_is_no_error_and_missing_on_one_is_infinite() -> None:
    expected = np.array([[0.0, 1.0, np.nan, np.nan]])
    found = np.array([[0.0, np.inf, np.nan, 1.0]])
    assert errors(found, expected).tolist() == [[0.0, np.inf, 0.0, np.inf]]


def test_agreement_of_logits() -> None:
    expected = np.array([[0.0, 1.0, 0.5], [1.0, 0.0, 0.9]], np.float32)
    found = np.array([[0.0, 1.0, 0.5], [0.9, 0.0, 1.0]], np.float32)
    seen = compare(found, expected, "logits")
    assert seen.same_top1 is not None
    assert seen.top2_gap is not None
    assert seen.same_top1.tolist() == [True, False]
    assert seen.top1 == 0.5
    assert seen.worst == pytest.approx([0, 0.1])
    assert seen.mean == pytest.approx([0, 0.2 / 3])
    assert seen.top2_gap == pytest.approx([0.5, 0.1])
    assert seen.cosine[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "shape"), [("features", (2, 4)), ("tokens", (2, 3, 4)), ("logits", (2, 1))])
def test_no_top1_without_classes(kind: str, shape: tuple[int, ...]) -> None:
    array = np.random.RandomState(0).standard_normal(shape)
    seen = compare(array, array, kind)
    assert seen.top1 is None
    assert seen.worst.shape == (2,)
    assert not seen.worst.any()


def test_nan_and_inf_are_named_with_their_image() -> None:
    array = np.zeros((3, 2))
    assert not_finite(array) is None
    array[2, 0] = np.inf
    assert not_finite(array) == "Inf in image 2"
    array[1, 1] = np.nan
    assert not_finite(array) == "NaN in image 1"
