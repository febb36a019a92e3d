"""Killed trainings: `kill -9` at random steps, and the weights at the end are the same, bit for bit."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tofe_export.training.log import read_log
from tofe_export.training.state import read_state

SCRIPT = Path(__file__).with_name("fit_process.py")
STEPS = 20  # 5 per epoch
# Everything that draws or remembers: mixing, drop path, Gumbel noise, a budget per step and its multiplier,
# averaged weights, micro-batches.
RECIPE = {
    "epochs": 4, "batch_size": 8, "accumulate": 2, "fixed_epochs": 1, "lr": 1e-3, "clip_grad": 1.0,
    "budget_control": "multiplier", "distill": 0.5, "seed": 7,
}  # fmt: skip


def start(**arguments: Any) -> subprocess.Popen[str]:
    whole = {"recipe": RECIPE, "drop_path": 0.2} | arguments
    command = [sys.executable, str(SCRIPT), json.dumps(whole, default=str)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def killed_at(step: int, **arguments: Any) -> None:
    """Kill the training as soon as it has reported `step`."""
    with start(**arguments) as process:
        assert process.stdout
        for line in process.stdout:
            if json.loads(line)["step"] == step:
                break
        process.kill()
    assert process.returncode == -9, process.returncode


def finished(process: subprocess.Popen[str]) -> list[int]:
    """Wait for the end of a training; the steps that it made."""
    output, _ = process.communicate()
    assert process.returncode == 0
    return [json.loads(line)["step"] for line in output.splitlines()]


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(torch.load(path, weights_only=True).items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    whole, killed, state = tmp_path / "whole.pt", tmp_path / "killed.pt", tmp_path / "state"
    log = tmp_path / "log.jsonl"
    first, second = random.randint(1, 9), random.randint(11, STEPS - 1)
    said = f"killed after steps {first} and {second}"
    uninterrupted = start(out=whole, log=tmp_path / "whole.jsonl")
    common = {"out": killed, "state": state, "save_every_s": 0.4, "log": log}
    killed_at(first, **common)
    assert read_state(state).step <= first + 1
    killed_at(second, resume=True, **common)
    begun = read_state(state).step
    assert finished(start(resume=True, workers=1, **common)) == list(range(begun + 1, STEPS + 1)), said
    assert finished(uninterrupted) == list(range(1, STEPS + 1))
    assert sha256(killed) == sha256(whole), said
    assert [_timeless(line) for line in read_log(log)] == [
        _timeless(line) for line in read_log(tmp_path / "whole.jsonl")
    ], said


def _timeless(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "images_per_s"}
