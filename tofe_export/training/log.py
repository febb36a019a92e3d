"""What a training writes down: JSON lines, and TensorBoard where asked for.

Both hold the step's own values, not means over steps: with several budgets a mean would mix them, and a
resumed training writes the same lines as an uninterrupted one (times apart).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from tofe_export.errors import MissingExtra
from tofe_export.files import write_atomic, writing
from tofe_export.training.report import StepReport


class Writer(Protocol):
    """Takes every step's report; decides itself which ones to write."""

    def __call__(self, report: StepReport) -> None:
        """Write the report down, or not."""

    def close(self) -> None:
        """Write the rest."""


class JsonLog:
    """A file with one JSON object per line: every `every`-th step and the last one.

    A new training replaces the file at its first step; a resumed one first drops the lines from the step on
    at which it resumes, and half a line that a kill left behind.
    """

    def __init__(self, path: Path, *, every: int = 10, resume: bool = False) -> None:
        self._path, self._every, self._resume, self._begun = path, every, resume, False

    def __call__(self, report: StepReport) -> None:
        """Append a line. Raises WriteError."""
        if not self._begun:
            self._begin(report.step)
        if report.step % self._every == 0 or report.step == report.steps:
            line = json.dumps(report.to_json(), allow_nan=False)
            with writing(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def close(self) -> None:
        """Nothing is held back."""

    def _begin(self, step: int) -> None:
        kept = []
        if self._resume and self._path.exists():
            kept = [line for line in read_log(self._path) if line["step"] < step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_atomic(self._path, text.encode())
        self._begun = True


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a JSON log; those that a kill cut off are left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


class TensorBoardLog:
    """The same numbers for TensorBoard, in `folder`. Steps after a resumption replace those before it.

    Raises MissingExtra where the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, every: int = 10) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtra("tensorboard", "train") from error
        self._open: Callable[..., Any] = SummaryWriter
        self._writer: Any = None  # opened at the first step, which says what to replace
        self._folder, self._every = folder, every

    def __call__(self, report: StepReport) -> None:
        """Add the scalars of every `every`-th step. Raises WriteError."""
        with writing(self._folder):
            self._writer = self._writer or self._open(str(self._folder), purge_step=report.step)
            if report.step % self._every == 0 or report.step == report.steps:
                for name, value in _scalars(report):
                    self._writer.add_scalar(name, value, report.step)

    def close(self) -> None:
        """Flush and close."""
        if self._writer:
            self._writer.close()


def _scalars(report: StepReport) -> list[tuple[str, float]]:
    losses = [(f"loss/{name}", value) for name, value in report.losses.items()]
    budget = "" if report.budget_gmacs is None else f" at {report.budget_gmacs:g}"
    logs = [(f"{name}{budget}", value) for name, value in report.logs.items()]
    rates = [("lr/modules", report.lr), ("lr/backbone", report.lr_backbone)]
    rest = [
        ("loss/total", report.loss),
        ("grad_norm", report.grad_norm),
        ("images_per_s", report.images_per_s),
    ]
    return [*losses, *logs, *rates, *rest]
