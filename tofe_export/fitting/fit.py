"""From a dense model and unlabelled images to a ToFe model for one budget, in minutes.

    ways      all modules fitted in several ways; the way whose answers diverge least is taken
    counts    the budget shared out among the stages by measurement
    blocks    the blocks' last layers refitted for fewer keys
    tune      backbone and approximators tuned together on the dense model's answers, all or part of the way

Everything is fitted on `images`, and every choice among many is made there; `held_out` judges the steps,
against the dense model as it was. A step that does not help there is undone, so each can only cost time.
Choosing the counts on the images that judge them would take the luckiest of dozens: the divergence has a
heavy tail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tofe_export.budget import gmacs, macs
from tofe_export.calibration.divergence import Judge, Loss, divergence
from tofe_export.calibration.search import search
from tofe_export.fitting.blocks import refit
from tofe_export.fitting.modules import (
    WAYS,
    Way,
    check_structure,
    fit_approximators,
    fit_modules,
    signal_of,
)
from tofe_export.fitting.original import First, Images, Original
from tofe_export.fitting.stage import images_within
from tofe_export.fitting.tune import tune
from tofe_export.keep import PAPER_PROFILE, Measured, fill_budget, solve
from tofe_export.model.tofe import ToFe

FEW = 128
"""Images on which each way is fitted; the best one is then fitted on more."""

TRIED = 256
"""Images on which ways and counts are compared."""

PARTS = (1.0, 0.5, 0.25)
"""Of the way that tuning went; the held-out images say how much of it is kept."""

Keep = tuple[int, ...]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Which steps, and how long."""

    ways: tuple[Way, ...] = WAYS
    search: bool = True
    """Whether counts are searched for; otherwise they have the paper's proportions."""
    steps: int = 600
    """Of tuning; 0 leaves it out."""
    backbone: bool = True
    """Whether the backbone may change: its blocks' last layers refitted, all of it tuned."""
    align: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Done:
    """One step."""

    name: str
    loss: Loss
    """On the held-out images, afterwards."""
    taken: bool
    """False where it did not help and was undone."""
    seconds: float
    facts: dict[str, Any] = field(default_factory=dict)
    keep: Keep = ()
    """Counts afterwards."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "step": self.name,
            **self.loss._asdict(),
            "taken": self.taken,
            "seconds": round(self.seconds, 1),
            **self.facts,
        }


@dataclass(frozen=True)
class Fitted:
    """What came out; the model itself was changed in place."""

    budget_gmacs: float
    keep: Keep
    gmacs: float
    """What the counts cost, in the paper's account."""
    way: Way
    done: tuple[Done, ...]
    dense: Loss
    """The dense model as it is now, against what it was."""
    seconds: float

    @property
    def loss(self) -> Loss:
        """On the held-out images, at the end."""
        return next(done for done in reversed(self.done) if done.taken).loss

    def row(self, thresholds: tuple[float, ...] | None = None) -> Measured:
        """For the checkpoint's table."""
        return Measured(self.budget_gmacs, self.keep, thresholds, "fit")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "budget_gmacs": self.budget_gmacs,
            "keep": list(self.keep),
            "gmacs": self.gmacs,
            "selectors": self.way.name,
            "divergence": self.loss.divergence,
            "agreement": self.loss.agreement,
            "dense_now": self.dense._asdict(),
            "seconds": round(self.seconds, 1),
            "steps": [done.to_json() for done in self.done],
        }


def fit(
    model: ToFe,
    images: Images,
    held_out: Images,
    budget_gmacs: float,
    options: Options | None = None,
    say: Say = lambda text: None,
    told: Callable[[Done], None] = lambda done: None,
) -> Fitted:
    """Fit `model`, whose modules are fresh, in place; both sets of images are gone through many times.

    `say` hears what is being done, `told` of every step that is, with the model as it then is.

    Raises BudgetError for a budget out of reach, UsageError for modules without a closed form, InputError
    where there are no images, TrainingDiverged.
    """
    check_structure(model)
    model.eval().requires_grad_(False)
    chosen, began = options or Options(), time.perf_counter()
    keep = solve(model.cost(), budget_gmacs, (), chosen.align).keep
    original = Original(model.backbone)
    tried = First(images, TRIED)
    with Judge(model, held_out, original.answer) as judge, Judge(model, tried, original.answer) as trial:
        run = _Run(model, original, images, budget_gmacs, chosen, judge, trial, say, told, keep)
        way = run.ways()
        if chosen.search:
            run.counts()
        if chosen.backbone:
            run.blocks()
        if chosen.steps:
            run.tune()
    dense = _dense_now(model, original, held_out)
    price = gmacs(macs(model.cost(), run.keep))
    return Fitted(budget_gmacs, run.keep, price, way, tuple(run.done), dense, time.perf_counter() - began)


class _Run:
    """The steps, each of which leaves the model better or as it was."""

    def __init__(
        self,
        model: ToFe,
        original: Original,
        images: Images,
        budget: float,
        options: Options,
        judge: Judge,
        trial: Judge,
        say: Say,
        told: Callable[[Done], None],
        keep: Keep,
    ) -> None:
        self.model, self.original, self.images, self.budget = model, original, images, budget
        self.options, self.judge, self.say, self.told, self.keep = options, judge, say, told, keep
        self.trial = trial
        self.done: list[Done] = []
        self.best = Loss(float("inf"), 0.0)
        self.within = images_within(model)

    def ways(self) -> Way:
        """Fit the modules in every way on a few images, and in the best one on more."""
        began, fresh, seed = time.perf_counter(), _state(self.model), self.options.seed
        count = min(FEW, self.within)
        losses: list[tuple[float, int]] = []
        for place, way in enumerate(self.options.ways):
            self.say(f"selectors: {way.name}")
            self._modules(way, fresh, count)
            losses.append((self.trial.judge([self.keep])[0].divergence, place))
        way = self.options.ways[min(losses)[1]]
        facts = self._modules(way, fresh, self.within)
        tried = {self.options.ways[place].name: loss for loss, place in losses}
        self._take(
            "modules", began, None, {"selectors": way.name, "tried": tried, "stages": facts, "seed": seed}
        )
        return way

    def counts(self) -> None:
        """Share the budget out among the stages."""
        began, before, kept = time.perf_counter(), _state(self.model), self.keep
        cost, options = self.model.cost(), self.options

        def measure(plans: Sequence[Keep]) -> list[float]:
            self.say(f"counts: {len(plans)} sets")
            return [loss.divergence for loss in self.trial.judge(plans)]

        found = search(
            lambda profile: fill_budget(cost, profile, self.budget, options.align),
            measure,
            starts(self.keep),
            reuse=cost.reuse,
        )
        self.keep = found[0].keep
        facts = fit_approximators(
            self.model, self.original, self.images, self.keep, self.within, options.seed
        )
        more = {"found": list(self.keep), "tried": len(found), "stages": facts}
        self._take("counts", began, before, more, kept)

    def blocks(self) -> None:
        """Refit the blocks' last layers."""
        began, before = time.perf_counter(), _state(self.model)
        done = refit(self.model, self.original, self.images, self.keep, self.within, self.say)
        self._take("blocks", began, before, {"blocks": done})

    def tune(self) -> None:
        """Tune everything but the selectors; without the backbone, the approximators alone."""
        began, before = time.perf_counter(), _state(self.model)
        options = self.options
        generator = torch.Generator().manual_seed(options.seed)
        tune(
            self.model,
            self.original,
            self.images,
            self.keep,
            options.steps,
            generator,
            self.say,
            options.backbone,
        )
        way = self._part_of_the_way(before)
        self._take("tune", began, before, {"steps": options.steps, "part": way})

    def _part_of_the_way(self, before: dict[str, Tensor]) -> float:
        """Go back from the tuned weights towards those before, as far as it helps; returns what is left.

        Weights in between answer better than both ends where tuning went too far for the few images that it
        saw ("Robust fine-tuning of zero-shot models", Wortsman et al., CVPR 2022).
        """
        after = _state(self.model)
        found: list[tuple[float, float]] = []
        for part in PARTS:
            self.model.load_state_dict(_between(before, after, part))
            found.append((self.judge.judge([self.keep])[0].divergence, part))
        part = min(found, key=lambda pair: pair[0])[1]
        self.model.load_state_dict(_between(before, after, part))
        return part

    def _modules(self, way: Way, fresh: dict[str, Tensor], count: int) -> list[dict[str, Any]]:
        self.model.load_state_dict(fresh)
        seed = self.options.seed
        signal = signal_of(way, self.model, self.original, self.images, count, seed)
        return fit_modules(self.model, self.original, self.images, self.keep, way, signal, count, seed)

    def _take(
        self,
        name: str,
        began: float,
        before: dict[str, Tensor] | None,
        facts: dict[str, Any],
        kept: Keep | None = None,
    ) -> None:
        """Measure what a step did; where it did not help, go back to the weights, and counts, before it."""
        self.say(f"{name}: measuring")
        loss = self.judge.judge([self.keep])[0]
        taken = before is None or loss.divergence < self.best.divergence
        if taken:
            self.best = loss
        elif before is not None:
            self.model.load_state_dict(before)
            self.keep = kept or self.keep
        self.done.append(Done(name, loss, taken, time.perf_counter() - began, facts, self.keep))
        self.told(self.done[-1])


def starts(keep: Keep) -> list[tuple[str, tuple[float, ...]]]:
    """Proportions from which counts are searched: as they are, equal, falling slowly and steeply."""
    stages = range(len(keep))
    known = [
        ("as they are", tuple(float(count) for count in keep)),
        ("equal", tuple(1.0 for _ in stages)),
        ("halving", tuple(2.0**-stage for stage in stages)),
        ("steep", tuple(6.0**-stage for stage in stages)),
    ]
    paper = [("paper's", tuple(map(float, PAPER_PROFILE)))] if len(keep) == len(PAPER_PROFILE) else []
    return known + paper


def _state(model: ToFe) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _between(before: dict[str, Tensor], after: dict[str, Tensor], part: float) -> dict[str, Tensor]:
    """Weights a part of the way from `before` to `after`."""
    if part == 1:
        return after
    return {
        name: torch.lerp(tensor, after[name], part) if tensor.is_floating_point() else after[name]
        for name, tensor in before.items()
    }


@torch.no_grad()
def _dense_now(model: ToFe, original: Original, images: Iterable[Tensor]) -> Loss:
    """How far the dense model has moved."""
    differs, agrees = list[Tensor](), list[Tensor]()
    classifier = model.backbone.num_classes > 0
    for batch in images:
        ours, theirs = model.backbone.dense(batch), original.answer(batch)
        differs.append(divergence(ours, theirs, classifier))
        agrees.append((ours.argmax(dim=1) == theirs.argmax(dim=1)).float())
    agreement = float(torch.cat(agrees).mean()) if classifier else float("nan")
    return Loss(float(torch.cat(differs).mean()), agreement)
