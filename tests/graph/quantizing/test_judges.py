"""Which pictures of an INT8 calibration judge, and how many are held in memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tofe_export.calibration.int8 import HELD_MOST, HELD_OUT, HELD_VALUES, Pictures
from tofe_export.errors import InputError

Free = Any


def pictures(images: Free) -> Pictures:
    """In batches of 5."""
    batches = [images[start : start + 5] for start in range(0, len(images), 5)]
    return Pictures(batches, {"count": len(images), "sha256": "5" * 64})


def test_the_judges_are_spread_over_all_pictures() -> None:
    """Folders are often sorted by class: the first 256 of many would be of few classes."""
    places = np.arange(1501, dtype=np.float32).reshape(-1, 1)
    large = np.broadcast_to(places, (1501, HELD_VALUES // HELD_OUT))
    held_out = pictures(large).held_out()[:, 0]
    assert len(held_out) == HELD_OUT
    assert set(held_out % 2) == {1}
    assert set(np.diff(held_out)) == {4, 6}
    assert held_out[-1] > 1490


@pytest.mark.parametrize(("times", "judges"), [(0.5, 256), (1, 256), (2, 512), (1000, 750)])
def test_more_small_pictures_judge(times: float, judges: int) -> None:
    one = np.zeros(int(HELD_VALUES / HELD_OUT / times), np.float32)
    held_out = pictures(np.broadcast_to(one, (1501, len(one)))).held_out()
    assert len(held_out) == judges


def test_judges_do_not_hold_the_batches_they_came_in() -> None:
    batches = [np.zeros((64, 3, 4, 4), np.float32) for _ in range(100)]
    held = [weakref.ref(batch) for batch in batches]

    class Once:
        def __iter__(self) -> Iterator[Free]:
            while batches:
                yield batches.pop()

    class Watched(Pictures):
        most = 0

        def _half(self, first: int) -> Iterator[Free]:
            for batch in super()._half(first):
                yield batch
                Watched.most = max(Watched.most, sum(ref() is not None for ref in held) - len(batches))

    judges = Watched(Once(), {"count": 6400, "sha256": "5" * 64}).held_out()
    assert len(judges) == 3200
    assert Watched.most <= 2


def test_even_of_the_smallest_not_all_judge() -> None:
    assert len(pictures(np.zeros((20_000, 3), np.float32)).held_out()) == HELD_MOST == 4096


def test_half_of_the_pictures_judges(images: Free) -> None:
    given = pictures(images)
    assert np.array_equal(np.concatenate(list(given.ranging())), images[::2])
    assert np.array_equal(given.held_out(), images[1::2])
    with pytest.raises(InputError, match="at least 2"):
        pictures(images[:1]).held_out()
