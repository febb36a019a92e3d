"""The state file by itself; that it is enough to go on is in `test_loop.py` and `test_resume.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tofe_export.errors import CheckpointError, UsageError, WriteError
from tofe_export.training.recipe import Recipe
from tofe_export.training.state import FORMAT, Keeper, State, changes, load_state, read_state, save_state

ARGUMENTS = {"recipe": Recipe(budgets=(1.5, 2.0)).to_json(), "data": "cats", "locations": (3, 6)}


def state_of(**changed: Any) -> State:
    state = State(
        step=7,
        student={"weight": torch.arange(3.0)},
        ema={"weight": torch.arange(3.0) / 3},
        optimizer={"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        objective={"multiplier 2.00": 0.25},
        unreadable=[3, 9],
        arguments=ARGUMENTS,
    )
    return replace(state, **changed)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, state_of())
    state = load_state(path, ARGUMENTS)
    assert (state.step, state.objective, state.unreadable) == (7, {"multiplier 2.00": 0.25}, [3, 9])
    assert torch.equal(state.student["weight"], torch.arange(3.0))
    assert state.ema is not None
    assert torch.equal(state.ema["weight"], torch.arange(3.0) / 3)
    assert state.optimizer["param_groups"] == [{"lr": 0.1, "params": [0]}]
    assert torch.load(path, weights_only=True)["format"] == FORMAT
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_every_changed_argument_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, state_of())
    recipe = Recipe(budgets=(1.5, 2.6), lambda_budget=5.0).to_json()
    with pytest.raises(UsageError) as info:
        load_state(path, {"recipe": recipe, "data": "dogs", "classes": 10})
    lines = [line.strip() for line in str(info.value).splitlines()[1:-1]]
    assert lines == [
        "budgets: [1.5, 2.0] -> [1.5, 2.6]",
        "lambda-budget: nothing -> 5.0",
        "data: cats -> dogs",
        "locations: [3, 6] -> nothing",
        "classes: nothing -> 10",
    ]


def test_tuples_and_lists_are_the_same() -> None:
    assert changes({"a": [1, 2]}, {"a": [1, 2]}) == []
    assert changes({"a": {"b": 1}}, {"a": {"b": 2}}) == ["b: 1 -> 2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK nonsense", "truncated or not a torch checkpoint|damaged"),
        ({"weight": torch.zeros(1)}, "no training state"),
        ({"format": FORMAT, "step": 1}, "has lost student, ema, optimizer, objective, unreadable, arguments"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "state"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        read_state(path)


def test_a_failed_write_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    save_state(path, state_of())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tofe_export.files.os.fsync", full)
    with pytest.raises(WriteError, match="free some space"):
        save_state(path, state_of(step=8))
    assert read_state(path).step == 7
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_a_keeper_knows_what_it_kept(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "state", every_s=3600)
    assert keeper.step is None
    assert not keeper.due()
    assert Keeper(None, every_s=0).due()
    keeper.keep(state_of)
    assert keeper.step == 7
    assert Keeper(tmp_path / "state", 0).load(ARGUMENTS).step == 7


def test_without_a_path_nothing_is_made() -> None:
    def never() -> State:
        raise AssertionError

    Keeper(None, 0).keep(never)
    Keeper(None, 0).refuse_to_overwrite()
