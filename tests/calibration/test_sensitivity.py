"""What is left out: nothing where all is well, the worst few otherwise, and never everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_export.calibration.sensitivity import agreement, damage, settle
from tofe_export.errors import PrecisionError

Array = npt.NDArray[Any]
UNITS = tuple("abcdefgh")
EXPECTED = np.eye(4, dtype=np.float32).repeat(25, axis=0) + np.float32(0.1)


class Model:
    """Answers that are wrong on as many images as the quantised units break together."""

    def __init__(self, **broken: int) -> None:
        self.expected = EXPECTED
        self.broken, self.tried = broken, list[tuple[tuple[str, ...], int]]()

    def __call__(self, left_out: Sequence[str], step: int) -> Array:
        self.tried.append((tuple(left_out), step))
        wrong = sum(n for unit, n in self.broken.items() if unit not in left_out)
        found = self.expected.copy()
        found[:wrong] = np.roll(found[:wrong], 1, axis=1)
        answers: Array = found[::step]
        return answers


def test_nothing_is_left_out_where_answers_agree() -> None:
    model = Model(a=1)
    found = settle(UNITS, EXPECTED, "logits", 0.99, model)
    assert (found.left_out, found.agreement, found.images) == ({}, 0.99, 100)
    assert model.tried == [((), 1)]


@pytest.mark.parametrize(
    ("broken", "left"),
    [({"c": 30}, "c"), ({"c": 30, "f": 20}, "cf"), ({"b": 9, "c": 30, "f": 20, "h": 3}, "cfbh")],
    ids=str,
)
def test_the_worst_are_left_out_and_no_more(broken: dict[str, int], left: str) -> None:
    found = settle(UNITS, EXPECTED, "logits", 0.99, Model(**broken))
    assert list(found.left_out) == list(left)
    assert found.agreement == 1.0
    assert found.agreement_of_all == pytest.approx(1 - sum(broken.values()) / 100)
    moved = [float(why.removeprefix("alone it moves the answers by ")) for why in found.left_out.values()]
    assert moved == sorted(moved, reverse=True)


def test_the_agreement_is_measured_on_the_whole() -> None:
    """A unit that ranks low alone can matter: then more is left out than the ranking alone would say."""
    model = Model(a=40, b=2)
    found = settle(UNITS, EXPECTED, "logits", 0.99, model)
    assert set(found.left_out) == {"a", "b"}
    assert model.tried[-1][1] == 1


@pytest.mark.parametrize(("times", "step"), [(1, 1), (2, 3), (5, 4), (40, 4)])
def test_units_are_ranked_on_pictures_from_everywhere(times: int, step: int) -> None:
    """Folders are often sorted by class: the first of many would be of the first class."""
    model = Model(a=40 * times)
    model.expected = EXPECTED.repeat(times, axis=0)
    settle(UNITS, model.expected, "logits", 0.99, model)
    assert [given for _, given in model.tried[1:9]] == [step] * 8


def test_outliers_are_left_out_first_whatever_the_answers_say() -> None:
    found = settle(UNITS, EXPECTED, "logits", 0.99, Model(a=1), {"d": "outliers", "z": "elsewhere"})
    assert (found.left_out, found.agreement) == ({"d": "outliers"}, 0.99)
    more = settle(UNITS, EXPECTED, "logits", 0.99, Model(a=30, d=1), {"d": "outliers"})
    assert list(more.left_out) == ["d", "a"]
    assert (more.agreement, more.agreement_of_all) == (1.0, 0.69)
    assert settle(UNITS, EXPECTED, "logits", 0.0, Model(a=30), {"d": "outliers"}).left_out == {}


def test_nothing_but_outliers_is_no_int8() -> None:
    with pytest.raises(PrecisionError, match="nothing but leaving every layer in float"):
        settle(UNITS, EXPECTED, "logits", 0.99, Model(), dict.fromkeys(UNITS, "outliers"))
    assert settle((), EXPECTED, "logits", 0.99, Model()).left_out == {}


def test_where_only_floats_would_do_there_is_no_int8() -> None:
    with pytest.raises(PrecisionError, match=r"99\.0%.*--min-agreement"):
        settle(UNITS, EXPECTED, "logits", 0.99, Model(**dict.fromkeys(UNITS, 5)))


def test_no_agreement_asked_for() -> None:
    assert settle(UNITS, EXPECTED, "logits", 0.0, Model(a=90)).left_out == {}


def test_features_agree_by_their_direction() -> None:
    features = np.random.RandomState(0).standard_normal((10, 32)).astype(np.float32)
    moved = features.copy()
    moved[:3] = -moved[:3]
    assert agreement(2 * features, features, "features") == 1.0
    assert agreement(moved, features, "features") == 0.7


@pytest.mark.parametrize("kind", ["logits", "features"])
def test_damage_grows_with_the_error(kind: str) -> None:
    noise = np.random.RandomState(1).standard_normal(EXPECTED.shape)
    sizes = [damage(EXPECTED + size * noise, EXPECTED, kind) for size in (0.0, 0.01, 0.1, 1.0)]
    assert sizes[0] == pytest.approx(0.0, abs=1e-12)
    assert sizes == sorted(sizes)
    assert sizes[3] > 100 * sizes[1] > 0
