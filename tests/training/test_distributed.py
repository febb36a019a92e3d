"""Two processes on the CPU (gloo), started as any launcher of torch does it, against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).parent
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RECIPE = {
    "epochs": 10, "batch_size": 8, "accumulate": 2, "fixed_epochs": 2, "lr": 1e-3, "augment": "none",
}  # fmt: skip


def start(command: list[str], script: str, argument: str) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    call = [*command, str(FOLDER / script), argument]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finished(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output


@pytest.mark.slow
def test_two_processes_make_the_steps_of_one(tmp_path: Path) -> None:
    def begin(command: list[str], name: str) -> subprocess.Popen[str]:
        return start(command, "fit_process.py", json.dumps({"recipe": RECIPE, "out": str(tmp_path / name)}))

    runs = begin([sys.executable], "one.pt"), begin(TWO, "two.pt")
    one, two = ([json.loads(line) for line in finished(run).splitlines()] for run in runs)
    assert len(one) == len(two) == 50
    for key in ("step", "epoch", "lr", "lr_backbone", "budget_gmacs"):
        assert [line[key] for line in one] == [line[key] for line in two]
    for key in ("loss", "gmacs", "keep_1", "keep_3"):
        assert [line[key] for line in one] == pytest.approx([line[key] for line in two], abs=1e-4), key
    weights = [torch.load(tmp_path / name, weights_only=True) for name in ("one.pt", "two.pt")]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=1e-4) for name in weights[0])


@pytest.mark.slow
def test_processes_agree_on_whether_to_go_on(tmp_path: Path) -> None:
    finished(start(TWO, "agree_process.py", str(tmp_path)))
    first, second = (json.loads((tmp_path / f"found-{rank}.json").read_text()) for rank in (0, 1))

    def both(key: str) -> Any:
        assert first[key] == second[key], key
        return first[key]

    assert both("any") == [True, False]
    assert both("mean") == 0.5
    assert (first["together"], second["together"]) == (
        "TofeError: another process stopped with an error: its message says why",
        "InputError: here",
    )
    assert both("main") == "of 0"
    assert both("main fails") == "UsageError: in 0"
    assert both("stopped").startswith("5 of 12")
    assert both("kept") == 5
    assert both("resumed") == both("whole")
    assert both("whole").startswith("12 of 12")
    assert both("diverged").startswith(
        "TrainingDiverged: the loss is not finite at step 3 of 12: the term cls is nan"
    )
    assert both("tolerated").startswith("12 of 12")
    assert both("counted") == [5]
    assert both("unreadable").startswith("InputError: expected at most 0 of 16")
    assert first["unwritable"].startswith("WriteError")
    assert second["unwritable"].startswith("TofeError: another process")
