"""Two processes that have to agree, for `test_distributed.py`; each prints its findings as one JSON line.

torchrun --nproc-per-node 2 agree_process.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tofe_export.errors import InputError, TofeError, UsageError
from tofe_export.training.batch import Batch, Step
from tofe_export.training.loop import fit
from tofe_export.training.objective import Objective, Terms
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import ArraySamples, Sample
from tofe_export.training.session import (
    any_process,
    create_accelerator,
    from_main,
    leave,
    mean_over,
    together,
)
from tofe_export.training.state import read_state
from tofe_export.training.unreadable import Unreadable

RECIPE = Recipe(epochs=3, batch_size=4, lr=1e-2, fixed_epochs=0)  # 4 steps per epoch
ACCELERATOR = create_accelerator(RECIPE, cpu=True)
RANK = ACCELERATOR.process_index


class Linear(Objective):
    """A linear classifier whose loss is not a number in the second process at one step."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student, self.fail_at = nn.Linear(12, 3), fail_at
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, batch: Batch, step: Step) -> Terms:
        loss = functional.cross_entropy(self.student(batch.images.flatten(1)), batch.targets)
        return Terms({"cls": loss * float("nan") if (step.done, RANK) == (self.fail_at, 1) else loss}, {})


class Damaged(ArraySamples):
    """Image 5 cannot be read."""

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        sample = super().__getitem__(key)
        index = -1 - key[1] if key[1] == 5 else key[1]
        return Sample(sample.image, sample.target, index, sample.noise)


def data() -> Damaged:
    images = torch.randn(16, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return Damaged(images, [index % 3 for index in range(16)], 0, (1, 4))


def train(objective: Objective, **arguments: Any) -> str:
    """How a training ended."""
    try:
        fitted = fit(objective, RECIPE, data(), ACCELERATOR, **arguments)
    except TofeError as error:
        return f"{type(error).__name__}: {error}"
    return f"{fitted.steps} of {fitted.total}, {fitted.weights['weight'].sum().item():.9f}"


def fail(error: Exception) -> None:
    raise error


def refused(act: Callable[[], object]) -> str:
    """The error that `act` raises."""
    try:
        act()
    except TofeError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main(folder: Path) -> None:
    state = folder / "state"
    asked = iter(range(100))
    found: dict[str, Any] = {
        "any": [any_process(ACCELERATOR, RANK == 1), any_process(ACCELERATOR, False)],
        "mean": mean_over(ACCELERATOR)(torch.tensor(float(RANK))).item(),
        "together": refused(
            lambda: together(ACCELERATOR, lambda: fail(InputError("here")) if RANK else None)
        ),
        "main": from_main(ACCELERATOR, lambda: f"of {RANK}"),
        "main fails": refused(lambda: from_main(ACCELERATOR, lambda: fail(UsageError(f"in {RANK}")))),
        "stopped": train(Linear(), state_path=state, should_stop=lambda: RANK == 1 and next(asked) == 5),
    }
    ACCELERATOR.wait_for_everyone()
    found["kept"] = read_state(state).step
    found["resumed"] = train(Linear(), state_path=state, resume=True)
    found["whole"] = train(Linear())
    found["diverged"] = train(Linear(fail_at=2))
    one = Unreadable(16, str, max_corrupt=0.1)
    found["tolerated"] = train(Linear(), unreadable=one)
    found["counted"] = sorted(one.indices)
    found["unreadable"] = train(Linear(), unreadable=Unreadable(16, str, max_corrupt=0))
    found["unwritable"] = train(Linear(), state_path=folder / "none" / "state")
    (folder / f"found-{RANK}.json").write_text(json.dumps(found))
    leave(ACCELERATOR)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
