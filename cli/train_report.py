"""What `train` shows: one live line, one line per epoch, one table at the end."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING

from tofe_export.budget import printed
from tofe_export.cli import console

if TYPE_CHECKING:
    from tofe_export.training.recipe import Recipe
    from tofe_export.training.report import StepReport
    from tofe_export.training.train import Trained


class Narrator:
    """Speaks for the main process, and keeps silent in the others."""

    def __init__(self, recipe: Recipe, *, speaks: bool) -> None:
        self._epochs, self._speaks = recipe.epochs, speaks
        self._progress = console.progress("train:")
        self._seen: dict[float | None, list[float]] = {}  # GMACs of this epoch's steps, by budget
        self._told = 0  # epochs that were spoken of

    def __enter__(self) -> Narrator:
        """Open the live line."""
        self._bar = self._progress.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wipe the live line."""
        self._progress.__exit__(kind, error, trace)

    def say(self, text: str) -> None:
        """A remark."""
        if self._speaks:
            self._bar.clear()
            console.note(text)

    def warn(self, text: str) -> None:
        """A warning."""
        if self._speaks:
            self._bar.clear()
            console.warn(text)

    def step(self, report: StepReport) -> None:
        """Redraw the live line; at the end of an epoch leave a line that stays."""
        if not self._speaks:
            return
        self._seen.setdefault(report.budget_gmacs, []).append(report.logs.get("gmacs", 0.0))
        line = f"epoch {report.epoch:.2f}/{self._epochs}, {facts(report, self._reached())}"
        if int(report.epoch) > self._told or report.step == report.steps:
            self.say(line)
            self._told, self._seen = int(report.epoch), {}
        else:
            self._bar.show(line)

    def _reached(self) -> str:
        """Mean cost of the epoch so far beside each budget: "2.01 of 2.00 GMACs"."""
        means = {budget: sum(values) / len(values) for budget, values in self._seen.items()}
        pairs = [
            printed(mean) + ("" if budget is None else f" of {printed(budget)}")
            for budget, mean in sorted(means.items(), key=lambda item: item[0] or 0.0)
        ]
        return f"{', '.join(pairs)} GMACs"


def facts(report: StepReport, reached: str) -> str:
    """Loss, cost, shares of tokens kept, and speed of a step, in one line."""
    shares = [value for name, value in sorted(report.logs.items()) if name.startswith("keep_")]
    keep = "/".join(f"{share:.0%}" for share in shares)
    return f"loss {report.loss:.3f}, {reached}, keep {keep}, {report.images_per_s:.0f} images/s"


def summary(trained: Trained, out: Path) -> str:
    """What came out: cost and accuracy of the original, of the dense model now, and for each budget."""
    rows: list[tuple[object, ...]] = [
        (name, None, printed(float(judged.gmacs.mean())), "all", percent(judged.accuracy(1)))
        for name, judged in (("original", trained.original), ("dense", trained.dense))
    ]
    for settled, judged in zip(trained.settled, trained.static, strict=True):
        keep = "/".join(map(str, settled.row.keep))
        budget = f"budget {printed(settled.row.budget_gmacs)}"
        cost = printed(settled.sampled.gmacs_mean), printed(settled.gmacs)
        rows.append((budget, *cost, keep, percent(judged.accuracy(1))))
    images = len(trained.original.rows)
    headers = ("model", "GMACs in training", "GMACs", "keep", f"top-1 of {images} held-out images")
    first = printed(trained.settled[0].row.budget_gmacs)
    return (
        f"{console.table(headers, rows, right=(1, 2, 4))}\n\n"
        f"wrote {out}; export it with: tofe-export onnx --ckpt {quote(str(out))} --budget {first}"
    )


def percent(share: float) -> str:
    """A share as people read it: 81.25%."""
    return f"{share:.2%}"
