"""The state file: all that a training needs to go on exactly where it was, replaced atomically.

It holds the weights (current and averaged), the optimiser, the number of steps done, and every argument that
must not change. Nothing random is in it: all draws are keyed by seed, epoch, sample and step. Torch's format,
readable with `weights_only=True`.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tofe_export.errors import CheckpointError, UsageError
from tofe_export.files import atomic_file
from tofe_export.model.weights import read_file

FORMAT = "tofe-export training state 1"


@dataclass(frozen=True, kw_only=True)
class State:
    """A training between two steps."""

    step: int
    """Optimiser steps done."""
    student: Mapping[str, Tensor]
    ema: Mapping[str, Tensor] | None
    """Averaged weights, if the recipe averages."""
    optimizer: Mapping[str, Any]
    objective: Mapping[str, float]
    unreadable: list[int]
    """Samples that could not be read so far."""
    arguments: Mapping[str, Any]
    """What a resumed run must be started with: recipe, model, data."""


def save_state(path: Path, state: State) -> None:
    """Write the file atomically. Raises WriteError."""
    content = {"format": FORMAT} | {f.name: getattr(state, f.name) for f in fields(state)}
    content["arguments"] = _plain(state.arguments)
    memory = io.BytesIO()  # torch reports a full disk as a RuntimeError
    torch.save(content, memory)
    with atomic_file(path) as file:
        file.write(memory.getbuffer())


def load_state(path: Path, arguments: Mapping[str, Any]) -> State:
    """Read a state that `save_state` wrote under the same arguments; tensors are on the CPU.

    Raises:
        CheckpointError: the file is damaged or something else.
        UsageError: there is none, or arguments differ; the message names each, old -> new.
    """
    if not path.exists():
        raise UsageError(f"nothing to resume: {path} does not exist. Start without --resume")
    state = read_state(path)
    changed = changes(state.arguments, _plain(arguments))
    if changed:
        raise UsageError(
            f"cannot resume from {path}: it was written with other arguments.\n"
            + "".join(f"    {line}\n" for line in changed)
            + "Use the old values, or start anew: without --resume, with another --out"
        )
    return state


def read_state(path: Path) -> State:
    """Read a state file, whatever its arguments. Raises CheckpointError."""
    content = read_file(path)
    if not isinstance(content, Mapping) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no training state of this version: expected {FORMAT!r} in it")
    names = [f.name for f in fields(State)]
    missing = [name for name in names if name not in content]
    if missing:
        raise CheckpointError(f"{path} has lost {', '.join(missing)}: start anew without --resume")
    return State(**{name: content[name] for name in names})


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line for each argument that differs: `lr: 0.0001 -> 0.001`, nested ones by their own name."""
    lines = []
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += changes(before, after)
        elif before != after:
            lines.append(f"{name.replace('_', '-')}: {_text(before)} -> {_text(after)}")
    return lines


def _text(value: Any) -> str:  # noqa: ANN401 - plain data
    return "nothing" if value is None else value if isinstance(value, str) else json.dumps(value)


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON would give it back: tuples become lists, so that old and new compare."""
    return dict(json.loads(json.dumps(arguments)))


class Keeper:
    """Knows when a state is due and which one was kept last. Without a path it keeps nothing."""

    def __init__(self, path: Path | None, every_s: float) -> None:
        self.path = path
        self.step: int | None = None
        """Step of the state in the file; None as long as this run has neither read nor written one."""
        self._every_s, self._last = every_s, time.monotonic()

    def due(self) -> bool:
        """Whether the interval since the last state is over."""
        return time.monotonic() - self._last >= self._every_s

    def keep(self, make: Callable[[], State]) -> None:
        """Write the state that `make` gives. Raises WriteError."""
        if self.path is not None:
            state = make()
            save_state(self.path, state)
            self.step, self._last = state.step, time.monotonic()

    def load(self, arguments: Mapping[str, Any]) -> State:
        """As `load_state`. Raises UsageError where there is no path."""
        if self.path is None:
            raise UsageError("cannot resume: this training keeps no state file")
        state = load_state(self.path, arguments)
        self.step = state.step
        return state

    def refuse_to_overwrite(self) -> None:
        """Raise UsageError if the file holds the state of a training that has made steps."""
        if self.path is None or not self.path.exists():
            return
        try:
            step = read_state(self.path).step
        except CheckpointError:
            return  # nothing that anyone could resume
        if step > 0:
            raise UsageError(
                f"{self.path} holds an interrupted training after {step} steps: continue it with --resume, "
                "or delete the file to start anew"
            )
