"""The training loop, on Hugging Face accelerate: it knows steps and processes, and nothing of ToFe.

A step is `accumulate` micro-batches of every process. Whatever is drawn in it is keyed by the seed and the
step's index, and everything else is in the state file, so a training that was killed and resumed ends with
the weights of one that was not (bit for bit on a CPU). Numbers that decide (means of losses, failures, the
wish to stop) are reduced over all processes first, so that all take the same decision.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor
from torch.utils.data import Dataset

from tofe_export.errors import TrainingDiverged
from tofe_export.model.weights import load_exactly
from tofe_export.training.batch import Batch, Step
from tofe_export.training.feed import Feed
from tofe_export.training.meter import Means, Meter
from tofe_export.training.objective import Objective, Terms
from tofe_export.training.optimizer import create_optimizer, set_rates
from tofe_export.training.recipe import Recipe
from tofe_export.training.report import StepReport as StepReport
from tofe_export.training.samples import Sample
from tofe_export.training.schedule import Rates, budget_of, rates
from tofe_export.training.seeding import FORWARD, words
from tofe_export.training.session import any_process, from_main, mean_over, together
from tofe_export.training.state import Keeper, State
from tofe_export.training.unreadable import Unreadable

if TYPE_CHECKING:
    from accelerate import Accelerator

Mix = Callable[[Batch, Sequence[int]], Batch]


class Fitted(NamedTuple):
    """What came out of a training."""

    weights: dict[str, Tensor]
    """State of the student on the CPU: averaged where the recipe averages, else after the last step."""
    steps: int
    """Steps done, those before a resumption included."""
    total: int
    """Steps of the whole training."""

    @property
    def stopped(self) -> bool:
        """Whether it was asked to stop before its end."""
        return self.steps < self.total


def fit(
    objective: Objective,
    recipe: Recipe,
    dataset: Dataset[Sample],
    accelerator: Accelerator,
    *,
    mix: Mix = lambda batch, key: batch,
    unreadable: Unreadable | None = None,
    workers: int = 0,
    state_path: Path | None = None,
    save_every_s: float = 600.0,
    resume: bool = False,
    description: Mapping[str, Any] | None = None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train the objective's student as the recipe says; the student itself ends as the last step left it.

    Args:
        objective: what is minimised; it moves to the accelerator's device.
        recipe: how.
        dataset: samples by (epoch, index).
        accelerator: from `session.create_accelerator` with the same recipe.
        mix: changes a micro-batch before the forward; its key is (seed, step, micro-batch, process).
        unreadable: judges the images that could not be read.
        workers: processes that load images, per training process.
        state_path: where the state is kept: at the start, every `save_every_s` seconds, after each epoch, at
            the end and when asked to stop. None keeps none.
        save_every_s: at most this much work is lost.
        resume: go on from the state at `state_path`.
        description: plain data besides the recipe that a resumed training must share (model, data).
        on_step: called in the main process after each step.
        should_stop: asked in every process before each step; one yes stops all.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; the state file holds the last state before.
        UsageError: batches cannot be cut so, the state belongs to other arguments or would be overwritten.
        InputError: too many images are unreadable, or the state file is damaged.
        WriteError: the state or a log could not be written.
    """
    arguments = {"recipe": recipe.to_json()} | dict(description or {})
    feed = Feed(dataset, recipe, accelerator, workers)
    run = _Run(
        objective, recipe, feed, accelerator, mix, unreadable, Keeper(state_path, save_every_s), arguments
    )
    run.resume() if resume else run.start()
    batches = feed.batches(run.done)
    while run.done < feed.length.total and not any_process(accelerator, should_stop()):
        report = run.step(batches)
        together(accelerator, partial(run.settle, report, on_step))
    together(accelerator, run.keep)
    accelerator.free_memory()
    return Fitted(run.weights(), run.done, feed.length.total)


class _Run:
    """A training under way."""

    def __init__(
        self,
        objective: Objective,
        recipe: Recipe,
        feed: Feed,
        accelerator: Accelerator,
        mix: Mix,
        unreadable: Unreadable | None,
        keeper: Keeper,
        arguments: Mapping[str, Any],
    ) -> None:
        self.objective, self.recipe, self.length, self.accelerator = (
            objective,
            recipe,
            feed.length,
            accelerator,
        )
        self.mix, self.unreadable, self.keeper, self.arguments = mix, unreadable, keeper, arguments
        self.done = 0
        objective.train()
        optimizer = create_optimizer(objective, recipe)
        self.wrapped, self.optimizer = accelerator.prepare(objective, optimizer)
        self.ema = ModelEmaV3(objective.student, recipe.ema, use_warmup=True) if recipe.ema else None
        self.clock = time.perf_counter()

    # -- beginning and end

    def start(self) -> None:
        """Begin at step 0; the first state shows at once whether states can be written."""
        together(self.accelerator, self._first)

    def _first(self) -> None:
        if self.accelerator.is_main_process:
            self.keeper.refuse_to_overwrite()
        self.keep()

    def resume(self) -> None:
        """Go on where the state file says."""
        state = from_main(self.accelerator, lambda: self.keeper.load(self.arguments))
        self.done, self.keeper.step = state.step, state.step
        load_exactly(self.objective.student, dict(state.student), "the model of this training")
        if self.ema and state.ema is not None:
            load_exactly(self.ema.module, dict(state.ema), "the averaged model of this training")
        self.optimizer.load_state_dict(dict(state.optimizer))
        self.objective.load_state(state.objective)
        if self.unreadable:
            self.unreadable.indices.update(state.unreadable)

    def keep(self) -> None:
        """Write the state, in the main process, unless it is there already."""
        if self.accelerator.is_main_process and self.keeper.step != self.done:
            self.keeper.keep(self._state)

    def _state(self) -> State:
        return State(
            step=self.done,
            student=self.objective.student.state_dict(),
            ema=self.ema.module.state_dict() if self.ema else None,
            optimizer=self.optimizer.state_dict(),
            objective=self.objective.state(),
            unreadable=sorted(self.unreadable.indices) if self.unreadable else [],
            arguments=self.arguments,
        )

    def weights(self) -> dict[str, Tensor]:
        """Copies of the weights that count."""
        model = self.ema.module if self.ema else self.objective.student
        return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    # -- one step

    def step(self, batches: Iterator[Batch]) -> StepReport:
        """Make one optimiser step, over the next `accumulate` micro-batches."""
        place = Step(self.done, self.length.epoch_of(self.done), budget_of(self.recipe, self.done))
        now = rates(self.recipe, self.length, self.done)
        set_rates(self.optimizer, now)
        meter = Meter(mean_over(self.accelerator))
        for micro in range(self.recipe.accumulate):
            batch = self._prepared(next(batches), micro)
            with self.accelerator.accumulate(self.wrapped):
                terms = cast(Terms, self.wrapped(batch, place))
                meter.add(terms)
                self.accelerator.backward(sum(terms.losses.values()))
        means, norm = meter.means(), self._clipped()
        self._require_finite(means, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done += 1
        if self.ema:
            self.ema.update(self.objective.student, step=self.done)
        self.objective.after_step(means.logs, place)
        return self._report(place, now, means, norm)

    def _prepared(self, batch: Batch, micro: int) -> Batch:
        """The batch, counted and mixed, with torch's generators set for its forward (drop path)."""
        if self.unreadable:
            indices, note = self.accelerator.gather(batch.indices), self.unreadable.note
            together(self.accelerator, lambda: note(indices))
        key = (self.recipe.seed, self.done, micro, self.accelerator.process_index)
        torch.manual_seed(int(words(1, FORWARD, *key)[0]) >> 1)
        return self.mix(batch, key)

    def _clipped(self) -> float:
        """Clip the gradient; returns its norm before, which is the same in all processes."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = self.accelerator.clip_grad_norm_(parameters, self.recipe.clip_grad or math.inf)
        return float(norm)

    def _require_finite(self, means: Means, norm: float) -> None:
        bad = [
            f"the term {name} is {value}" for name, value in means.losses.items() if not math.isfinite(value)
        ]
        if not bad and math.isfinite(norm):
            return
        what = " and ".join(bad) or f"the gradient's norm is {norm}"
        kept = "No state was kept."
        if self.keeper.step is not None:
            kept = f"{self.keeper.path} keeps the state after {self.keeper.step} steps."
        precise = "" if self.recipe.precision == "fp32" else ", or with --precision fp32"
        raise TrainingDiverged(
            f"the loss is not finite at step {self.done + 1} of {self.length.total}: {what}. {kept} "
            f"Start anew with a lower --lr (now {self.recipe.lr:g}), or with --clip-grad 1{precise}"
        )

    def _report(self, place: Step, now: Rates, means: Means, norm: float) -> StepReport:
        before, self.clock = self.clock, time.perf_counter()
        return StepReport(
            step=self.done,
            steps=self.length.total,
            epoch=self.length.epoch_of(self.done),
            lr=now.modules,
            lr_backbone=now.backbone,
            budget_gmacs=place.budget_gmacs,
            loss=sum(means.losses.values()),
            losses=means.losses,
            logs=means.logs,
            grad_norm=norm,
            images_per_s=self.recipe.batch_size / (self.clock - before),
            unreadable=len(self.unreadable.indices) if self.unreadable else 0,
        )

    def settle(self, report: StepReport, on_step: Callable[[StepReport], None]) -> None:
        """After a step, in the main process: tell, and keep the state when it is due."""
        if self.accelerator.is_main_process:
            on_step(report)
            if self.done % self.length.per_epoch == 0 or self.keeper.due():
                self.keep()
