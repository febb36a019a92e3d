"""How many unreadable pictures a training stands."""

from __future__ import annotations

import re

import pytest
import torch

from tofe_export.errors import InputError
from tofe_export.training.samples import NOTHING
from tofe_export.training.unreadable import Unreadable, read_failures


def judge(count: int = 1000, share: float = 0.01, gone: str | None = None) -> Unreadable:
    return Unreadable(count, lambda index: f"{index}.png", share, lambda: gone)


def indices(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def test_read_failures_names_the_samples_that_failed() -> None:
    assert read_failures(indices(4, -1, 0, -6, NOTHING)) == [0, 5]
    assert read_failures(indices(1, 2)) == []


def test_each_picture_counts_once() -> None:
    unreadable = judge()
    assert unreadable.note(indices(1, -8, 3)) == [7]
    assert unreadable.note(indices(-8, -3)) == [2]
    assert unreadable.note(indices(-8)) == []
    assert unreadable.names() == ["2.png", "7.png"]
    assert unreadable.names(limit=1) == ["2.png"]


def test_above_the_limit_the_training_stops() -> None:
    unreadable = judge()
    unreadable.note(indices(*range(-10, 0)))
    with pytest.raises(InputError) as caught:
        unreadable.note(indices(-11))
    assert str(caught.value) == (
        "expected at most 10 of 1000 training pictures to be unreadable (--max-corrupt), found 11 so far. "
        "They are 0.png, 1.png, 2.png, 3.png, 4.png and 6 more. Repair or remove them"
    )
    assert caught.value.exit_code == 3


def test_of_a_small_data_set_one_picture_is_tolerated() -> None:
    unreadable = judge(count=20)
    unreadable.note(indices(-1))
    with pytest.raises(InputError, match=re.escape("at most 1 of 20 training pictures")):
        unreadable.note(indices(-2))


def test_limit_0_tolerates_none() -> None:
    with pytest.raises(InputError, match=r"at most 0 of 20 .* They are 2\.png\. Repair"):
        judge(count=20, share=0).note(indices(-3))


def test_a_folder_that_disappeared_is_told_instead() -> None:
    unreadable = judge(gone="the data folder /d disappeared")
    unreadable.note(indices(1, 2))
    for bad in (-1, NOTHING):
        with pytest.raises(InputError, match=r"^the data folder /d disappeared$"):
            unreadable.note(indices(bad))


def test_without_a_replacement_the_training_stops_whatever_the_limit() -> None:
    with pytest.raises(InputError, match="no readable picture was found"):
        judge(share=1.0).note(indices(0, NOTHING))
