"""Before which blocks selections happen, chosen by measurement.

Every block before the first selection is paid for in full. The paper starts after a quarter of the blocks,
so that selectors have something to judge by, and at a low budget hardly any tokens are left for the rest. An
earlier start leaves more tokens everywhere behind it. Which is better depends on model and budget, so the
modules of each candidate are fitted on a few images in a few ways, and the locations whose best way diverges
least are taken. Keep counts have the default proportions meanwhile; they are searched for afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from tofe_export.calibration.divergence import Judge
from tofe_export.errors import BudgetError
from tofe_export.fitting.modules import Way, fit_modules, signal_of
from tofe_export.fitting.original import First, Images, Original
from tofe_export.fitting.stage import images_within
from tofe_export.keep import solve
from tofe_export.model.tofe import ToFe

FITTED_ON, TRIED_ON = 128, 256
"""Images; the second number includes the first."""

WAYS = (Way("sensitivity", 0.0), Way("sensitivity", 2.0), Way(None, 1.0))
"""One of each kind: importance, importance with a lottery, a lottery."""

STAGES = 2
"""Tried besides the paper's three: fewer selections, later tokens recovered less often."""

Locations = tuple[int, ...]


@dataclass(frozen=True)
class Choice:
    """Where selections happen, and what else was tried."""

    locations: Locations
    tried: dict[Locations, float]
    """Divergence of each candidate's best way; empty where there was nothing to choose."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; candidates by their blocks, joined with slashes."""
        tried = {"/".join(map(str, place)): loss for place, loss in self.tried.items()}
        return {"chosen": list(self.locations), "tried": tried}


def candidates(depth: int, default: Locations) -> list[Locations]:
    """The default first; then starts before block 1 and after a sixth, and two stages instead of three.

    What follows the first selection is divided evenly. `depth` counts blocks.
    """
    starts = sorted({1, max(1, depth // 6), default[0]}, reverse=True)
    even = [
        tuple(start + (depth - start) * stage // stages for stage in range(stages))
        for stages in (len(default), STAGES)
        for start in starts
    ]
    real = [places for places in even if len(set(places)) == len(places)]
    return list(dict.fromkeys([default, *real]))


def within_reach(
    model: ToFe, places: Sequence[Locations], budget_gmacs: float, align: int = 1
) -> list[Locations]:
    """Those of `places` with which the model can meet the budget.

    Raises BudgetError where none can, with the reach of the last: of `candidates`, the earliest start.
    """
    refusals = {place: _refusal(moved(model, place, 0), budget_gmacs, align) for place in places}
    found = [place for place, refusal in refusals.items() if refusal is None]
    if not found:
        raise next(refusal for refusal in reversed(refusals.values()) if refusal is not None)
    return found


def _refusal(model: ToFe, budget_gmacs: float, align: int) -> BudgetError | None:
    try:
        solve(model.cost(), budget_gmacs, (), align)
    except BudgetError as error:
        return error
    return None


def moved(model: ToFe, locations: Locations, seed: int) -> ToFe:
    """A model of the same backbone, which is shared, with fresh modules at other locations."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = ToFe(model.backbone, replace(model.structure, locations=locations))
    return new.eval().requires_grad_(False).to(device)


def choose(
    model: ToFe,
    places: Sequence[Locations],
    images: Images,
    budget_gmacs: float,
    align: int = 1,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Choice:
    """The best of `places` for the budget, by the model's own answers to a few images.

    `model` is left as it is. Of candidates that diverge alike the first is taken. Raises BudgetError where
    none can meet the budget, InputError where there are no images.
    """
    left = within_reach(model, places, budget_gmacs, align)
    if len(left) == 1:
        return Choice(left[0], {})
    original, tried_on = Original(model.backbone), First(images, TRIED_ON)
    tried: dict[Locations, float] = {}
    for place in left:
        say(f"locations: before blocks {', '.join(map(str, place))}")
        tried[place] = _best(moved(model, place, seed), original, tried_on, budget_gmacs, align, seed)
    return Choice(min(left, key=tried.__getitem__), tried)


def _best(
    model: ToFe, original: Original, images: First, budget_gmacs: float, align: int, seed: int
) -> float:
    """Divergence of the best way at one candidate."""
    keep = solve(model.cost(), budget_gmacs, (), align).keep
    count = min(FITTED_ON, images_within(model))
    losses, fresh = list[float](), copy.deepcopy(model.state_dict())
    with Judge(model, images, original.answer) as judge:
        for way in WAYS:
            model.load_state_dict(fresh)
            signal = signal_of(way, model, original, images, count, seed)
            fit_modules(model, original, images, keep, way, signal, count, seed)
            losses.append(judge.judge([keep])[0].divergence)
    return min(losses)
