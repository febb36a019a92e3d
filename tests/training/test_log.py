"""JSON lines and TensorBoard: what is written, and what a resumed training replaces."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from tofe_export.errors import MissingExtra, WriteError
from tofe_export.training.log import JsonLog, TensorBoardLog, read_log
from tofe_export.training.report import StepReport


def report_of(step: int, steps: int = 25, **changed: Any) -> StepReport:
    report = StepReport(
        step=step,
        steps=steps,
        epoch=step / 10,
        lr=1e-4,
        lr_backbone=0.0,
        budget_gmacs=2.0,
        loss=1.5,
        losses={"cls": 1.0, "budget": 0.5},
        logs={"gmacs": 2.25, "keep_1": 0.5},
        grad_norm=3.0,
        images_per_s=100.0,
        unreadable=0,
    )
    return report._replace(**changed)


def run(log: JsonLog, steps: range) -> None:
    for step in steps:
        log(report_of(step))
    log.close()


def test_every_tenth_step_and_the_last_one_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    run(JsonLog(path), range(1, 26))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 25]
    assert lines[0]["losses"] == {"cls": 1.0, "budget": 0.5}
    assert (lines[0]["gmacs"], lines[0]["keep_1"], lines[0]["lr_backbone"]) == (2.25, 0.5, 0.0)


def test_a_new_training_replaces_the_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    run(JsonLog(path, every=1), range(1, 6))
    log = JsonLog(path, every=1)
    assert len(read_log(path)) == 5  # not before its first step
    run(log, range(1, 3))
    assert [line["step"] for line in read_log(path)] == [1, 2]


def test_a_resumed_training_drops_what_it_repeats_and_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    run(JsonLog(path, every=2), range(1, 9))
    path.write_text(path.read_text() + '{"step": 10, "epo')
    run(JsonLog(path, every=2, resume=True), range(6, 13))
    assert [line["step"] for line in read_log(path)] == [2, 4, 6, 8, 10, 12]
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_resumed_training_may_begin_a_log(tmp_path: Path) -> None:
    run(JsonLog(tmp_path / "log.jsonl", every=1, resume=True), range(4, 6))
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [4, 5]


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    JsonLog(tmp_path / "log", every=1)(report_of(1, logs={"gmacs": math.nan, "keep_1": math.inf}))
    assert [read_log(tmp_path / "log")[0][key] for key in ("gmacs", "keep_1")] == [None, None]


def test_a_log_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="create the folder first"):
        JsonLog(tmp_path / "none" / "log")(report_of(1))


def test_tensorboard_gets_the_scalars(tmp_path: Path) -> None:
    reader: Any = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = TensorBoardLog(tmp_path, every=2)
    assert list(tmp_path.iterdir()) == []
    for step in range(1, 6):
        log(report_of(step, steps=5))
    log.close()
    events = reader.EventAccumulator(str(tmp_path)).Reload()
    names = {
        "loss/cls",
        "loss/budget",
        "loss/total",
        "gmacs at 2",
        "keep_1 at 2",
        "lr/modules",
        "lr/backbone",
    }
    assert names < set(events.Tags()["scalars"])
    assert [(event.step, event.value) for event in events.Scalars("loss/total")] == [
        (2, 1.5),
        (4, 1.5),
        (5, 1.5),
    ]


def test_a_missing_tensorboard_has_a_pip_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtra, match=r"pip install 'tofe-export\[train\]'"):
        TensorBoardLog(tmp_path)
