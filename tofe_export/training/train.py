"""From a backbone and labelled images to a trained ToFe checkpoint: what `tofe-export train` does.

    check       budgets and classes, before anything takes time
    dense       the backbone's accuracy on the held-out images: a wrong order of classes shows here
    fit         `loop.py` minimises `ToFeObjective`
    settle      counts and thresholds that the trained selectors arrive at
    judge       accuracy of the result on the held-out images, dense and per budget

The result is a `Checkpoint` whose table holds one row per budget. Under several processes each trains and
judges its share of the images, and all come to the same checkpoint; whoever calls decides who writes it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_export import __version__
from tofe_export.budget import printed
from tofe_export.errors import UsageError
from tofe_export.keep import Measured
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.tofe import ToFe
from tofe_export.training.batch import Batch
from tofe_export.training.data import TrainingData, check_classes, share_names
from tofe_export.training.evaluate import Evaluation, Row, evaluate, in_batches
from tofe_export.training.loading import EpochSampler, micro_batch
from tofe_export.training.loop import Mix, StepReport, fit
from tofe_export.training.mixing import Mixing
from tofe_export.training.recipe import Recipe
from tofe_export.training.session import mean_over
from tofe_export.training.settle import Settled, check_targets, settle
from tofe_export.training.tofe_objective import ToFeObjective

if TYPE_CHECKING:
    from accelerate import Accelerator

MEASURED_IMAGES = 10_000
CALIBRATION_IMAGES = 5_000
EVALUATION_BATCH = 64
LIBRARIES = ("torch", "timm", "accelerate")
OFF_TARGET = 0.02
"""Share of a budget by which the measured cost may miss it without a warning."""


def _silent(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """How a training runs, apart from what it learns."""

    accelerator: Accelerator
    workers: int = 0
    """Processes that read pictures."""
    state_path: Path | None = None
    """Where the state for `resume` is kept; None keeps none."""
    save_every_s: float = 600.0
    resume: bool = False
    description: Mapping[str, Any] = field(default_factory=dict)
    """What a resumed run must share, besides the recipe, the model and the data: plain data."""
    say: Callable[[str], None] = _silent
    warn: Callable[[str], None] = _silent
    on_step: Callable[[StepReport], None] = lambda report: None
    should_stop: Callable[[], bool] = lambda: False


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    checkpoint: Checkpoint
    original: Evaluation
    """The backbone as it was given."""
    dense: Evaluation
    """The backbone as it is now, without freezing."""
    settled: list[Settled]
    static: list[Evaluation]
    """One per budget."""


def train(checkpoint: Checkpoint, data: TrainingData, recipe: Recipe, run: Run) -> Trained | None:
    """Train `checkpoint` (as `build_checkpoint` makes it) on `data`; None if it was asked to stop.

    With several budgets the model must be conditioned. The checkpoint is changed in place, at the end.

    Raises:
        BudgetError, UsageError: a target that the model cannot meet, or options that do not fit together.
        InputError: classes that do not match, too many unreadable images, data that disappeared.
        TrainingDiverged: a loss that is not finite.
        WriteError: the state or the log could not be written.
    """
    model, accelerator = checkpoint.model, run.accelerator
    _check(checkpoint, data, recipe)
    model.to(accelerator.device)
    judge = Judge(model, data, run)
    original = judge(None)
    _report_original(original, data, run)
    objective = ToFeObjective(model, recipe, data.num_classes, mean_over(accelerator))
    mix = Mixing(recipe, data.num_classes, accelerator.num_processes)
    fitted = fit(
        objective,
        recipe,
        data.train,
        accelerator,
        mix=mix,
        unreadable=data.unreadable(recipe.max_corrupt),
        workers=run.workers,
        state_path=run.state_path,
        save_every_s=run.save_every_s,
        resume=run.resume,
        description=_description(checkpoint, data, run),
        on_step=run.on_step,
        should_stop=run.should_stop,
    )
    if fitted.stopped:
        return None
    model.load_state_dict(fitted.weights)
    model.eval()
    settled = settle(model, recipe, Mixed(data, recipe, run, mix), _calibration(data, run))
    for one in settled:
        _report_target(one, run)
    static = [judge(one.row) for one in settled]
    trained = Trained(checkpoint, original, judge(None), settled, static)
    _complete(trained, data, recipe, run)
    return trained


class Judge:
    """Accuracy on the held-out images, each process taking its share of them."""

    def __init__(self, model: ToFe, data: TrainingData, run: Run) -> None:
        self.model, self.samples, self.run = model, data.held_out, run

    def __call__(self, row: Measured | None) -> Evaluation:
        """Judge the backbone without freezing, or with the counts of a row, the same for every image."""
        accelerator = self.run.accelerator
        share = range(accelerator.process_index, len(self.samples), accelerator.num_processes)
        batches = in_batches(self.samples, share, EVALUATION_BATCH, self.run.workers)
        if row is not None:
            self.model.set_budget(row.budget_gmacs)
        freezer = None if row is None else StaticFreezer(row.keep)
        return evaluate(self.model, batches, freezer, gather=self._gather)

    def _gather(self, rows: list[Row]) -> list[Row]:
        if self.run.accelerator.num_processes == 1:
            return rows
        from accelerate.utils import gather_object

        return list(gather_object(rows))


class Mixed:
    """Training images as one more epoch would bring them, in the batches of one process."""

    def __init__(self, data: TrainingData, recipe: Recipe, run: Run, mix: Mix) -> None:
        size = micro_batch(recipe, run.accelerator.num_processes)
        order = EpochSampler(len(data.train), recipe.seed)
        order.set_epoch(recipe.epochs)
        count = max(1, min(len(order), MEASURED_IMAGES) // size) * size
        indices = [index for _, index in islice(order, count)]
        self._batches = in_batches(data.train, indices, size, run.workers, recipe.epochs)
        self._mix, self._key = mix, (recipe.seed, recipe.epochs)

    def __iter__(self) -> Iterator[Batch]:
        """The same batches each time."""
        for number, batch in enumerate(self._batches):
            yield self._mix(batch, (*self._key, number))


def _calibration(data: TrainingData, run: Run) -> Iterable[Batch]:
    """Held-out images, evenly spread over all of them."""
    count = len(data.held_out)
    spread = range(0, count, -(-count // CALIBRATION_IMAGES))
    return in_batches(data.held_out, spread, EVALUATION_BATCH, run.workers)


def _check(checkpoint: Checkpoint, data: TrainingData, recipe: Recipe) -> None:
    """Raise for what can be known before the first image is read."""
    structure = checkpoint.model.structure
    check_targets(checkpoint.model.cost(), recipe)
    if checkpoint.classes and not share_names(data, checkpoint.classes):
        checkpoint.classes = None  # ImageNet's were assumed for 1000 outputs, and this is other data
    check_classes(data, checkpoint.model.backbone.num_classes, checkpoint.classes)
    if len(recipe.budgets) > 1 and not structure.conditioned:
        raise UsageError("several budgets need selectors that know them: build the checkpoint conditioned")
    if recipe.ratios and len(recipe.ratios) != len(structure.locations):
        raise UsageError(
            f"--ratios: expected {len(structure.locations)}, one per selection, found {len(recipe.ratios)}"
        )


def _description(checkpoint: Checkpoint, data: TrainingData, run: Run) -> dict[str, Any]:
    """What a resumed run must share with the one that it goes on from."""
    backbone = checkpoint.model.backbone
    return {
        "model": backbone.name,
        "model_arguments": dict(backbone.arguments),
        "structure": checkpoint.model.structure.to_json(),
        "preprocessing": checkpoint.preprocessing.to_json(),
        "classes": list(data.classes),
        "data": data.fingerprint,
    } | dict(run.description)


def _report_original(original: Evaluation, data: TrainingData, run: Run) -> None:
    """Say how good the backbone is, and warn where it is no better than chance."""
    accuracy, images, chance = original.accuracy(1), len(original.rows), 1 / data.num_classes
    run.say(f"backbone: top-1 {accuracy:.2%} on {images} held-out images")
    if accuracy <= chance + 3 * (chance * (1 - chance) / images) ** 0.5:
        run.warn(
            f"the backbone's accuracy on {data.name} is {accuracy:.2%}, no better than chance. Was it "
            "trained on these classes, in the natural order of the folders' names, with this preprocessing?"
        )


def _report_target(one: Settled, run: Run) -> None:
    """Say what was reached, and warn where a budget was missed."""
    budget, reached = printed(one.row.budget_gmacs), printed(one.sampled.gmacs_mean)
    keep = "/".join(map(str, one.row.keep))
    run.say(
        f"budget {budget}: {reached} GMACs on average in training; keep {keep}: {printed(one.gmacs)} GMACs"
    )
    if abs(one.off_target) > OFF_TARGET:
        run.warn(
            f"the budget of {budget} GMACs was missed by {one.off_target:+.1%}: train longer, or give "
            "--budget-control multiplier or a larger --lambda-budget"
        )


def _complete(trained: Trained, data: TrainingData, recipe: Recipe, run: Run) -> None:
    """Fill in what the checkpoint knows about its training."""
    checkpoint = trained.checkpoint
    checkpoint.model.cpu()
    checkpoint.table = tuple(one.row for one in trained.settled)
    checkpoint.classes = checkpoint.classes or data.classes
    checkpoint.trained = True
    checkpoint.history |= {
        "versions": {"tofe-export": __version__} | {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
        "processes": run.accelerator.num_processes,
        "device": str(run.accelerator.device),
        "data": {"name": data.name, "fingerprint": data.fingerprint, "training images": len(data.train)},
        "recipe": recipe.to_json(),
        "held-out images": len(trained.original.rows),
        "original": accuracies(trained.original),
        "dense": accuracies(trained.dense),
        "budgets": [
            {
                "budget_gmacs": settled.row.budget_gmacs,
                "keep": list(settled.row.keep),
                "gmacs": settled.gmacs,
                "keep_mean": list(settled.sampled.keep_mean),
                "gmacs_mean": settled.sampled.gmacs_mean,
                "off_target": settled.off_target,
                **accuracies(judged),
            }
            for settled, judged in zip(trained.settled, trained.static, strict=True)
        ],
    }


def accuracies(judged: Evaluation) -> dict[str, float]:
    """Shares in 0..1."""
    return {"top1": judged.accuracy(1), "top5": judged.accuracy(5)}
