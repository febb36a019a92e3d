"""Which of many ways to spend a budget loses least: a small pattern search over profiles.

A budget leaves S - 1 degrees of freedom: how tokens are shared out among the stages. A profile says the
shares and `fill` makes of it the largest counts that the budget allows, whatever the budget counts (MACs,
milliseconds). The loss is smooth over profiles and every measurement costs a pass over the images, so the
search starts from a few known profiles, asks around the best one, each stage stronger or weaker by a factor,
moves while that helps, and then asks more closely. Equal inputs give equal results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from math import exp
from typing import NamedTuple

from tofe_export.calibration.targets import Fill, Keep

Measure = Callable[[Sequence[Keep]], list[float]]
"""What each set of keep counts loses: smaller is better."""

FINENESS = 10_000  # the largest share of a profile, in whole numbers
STEPS = (0.5, 0.25, 0.125)  # factors e^+-step
MOST = 48  # sets of keep counts that are measured at most


class Scored(NamedTuple):
    """One set of keep counts that was measured."""

    keep: Keep
    loss: float
    origin: str
    """Where it comes from: the name of a start, or "search"."""


def search(
    fill: Fill, measure: Measure, starts: Sequence[tuple[str, Sequence[float]]], *, reuse: bool = True
) -> list[Scored]:
    """All sets that were measured, the best first; of equals, the one that was met first.

    `starts` are named profiles of any scale. Without reuse counts never increase from stage to stage.
    """
    found: dict[Keep, Scored] = {}
    shapes: dict[Keep, tuple[float, ...]] = {}

    def ask(profiles: Sequence[tuple[str, Sequence[float]]]) -> None:
        new: dict[Keep, str] = {}
        for origin, profile in profiles:
            shape = _falling(profile) if not reuse else tuple(profile)
            keep = fill(_whole(shape))
            if keep not in found and len(found) + len(new) < MOST:
                new.setdefault(keep, origin)
                shapes.setdefault(keep, shape)
        for keep, loss in zip(new, measure(list(new)) if new else [], strict=True):
            found[keep] = Scored(keep, loss, new[keep])

    ask(starts)
    for step in STEPS:
        while True:
            best = _best(found.values())
            ask([("search", tilted) for tilted in _around(shapes[best.keep], step)])
            if _best(found.values()) == best:
                break
    return sorted(found.values(), key=lambda scored: scored.loss)


def _best(found: Iterable[Scored]) -> Scored:
    return min(found, key=lambda scored: scored.loss)


def _around(profile: Sequence[float], step: float) -> list[tuple[float, ...]]:
    """Each stage stronger and weaker by a factor e^step."""
    return [
        tuple(share * exp(sign * step) if place == stage else share for place, share in enumerate(profile))
        for stage in range(len(profile))
        for sign in (1, -1)
    ]


def _whole(profile: Sequence[float]) -> tuple[int, ...]:
    """The same proportions in whole numbers, each at least 1."""
    largest = max(profile)
    return tuple(max(1, round(share / largest * FINENESS)) for share in profile)


def _falling(profile: Sequence[float]) -> tuple[float, ...]:
    """No share above the one before."""
    return tuple(accumulate(profile, min))
