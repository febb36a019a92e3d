"""Everything that is run for one variant, and the comparisons that several checks share.

product           the graph that users run
free              the probe, choosing for itself
forced            the probe under the reference's kept sets: all stages see the reference's tokens, so
                  scores and output must agree however close two scores are
tied              images whose product output is explained by a near tie, see replay.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tofe_export.runtime.session import Session
from tofe_export.verify.case import Case
from tofe_export.verify.compare import Agreement, Array, Bools, Floats, compare, span, worst
from tofe_export.verify.limits import Limits
from tofe_export.verify.observe import Observation, forced_widths, run_probe, run_product
from tofe_export.verify.replay import near_ties
from tofe_export.verify.sets import Swap, first_swaps, score_errors


@dataclass(frozen=True)
class Runs:
    """What the sessions gave. `forced` is None where the probe cannot take the reference's sets (other K)."""

    case: Case
    limits: Limits
    product: Array
    free: Observation | None = None
    forced: Observation | None = None
    widths: tuple[int, ...] = ()
    tied: Bools | None = None

    @cached_property
    def agreement(self) -> Agreement:
        """Product against reference."""
        return compare(self.product, self.case.expected, self.case.output)

    @cached_property
    def swaps(self) -> list[Swap | None]:
        """Per image the first kept set that differs, in the probe's free run."""
        case, free = self.case, self.free
        if free is None:
            return [None] * len(case.images)
        limit = self.limits.scores
        return first_swaps(case.scores, case.kept, free.scores, free.kept, case.thresholds, limit)

    @cached_property
    def equal(self) -> Bools:
        """Images whose kept sets are all the reference's, (n,)."""
        return np.array([swap is None for swap in self.swaps])

    @cached_property
    def comparable(self) -> Bools:
        """Stages that see the reference's tokens in the free run, (n, S): up to the first difference."""
        first = np.array([self.case.stages if swap is None else swap.stage for swap in self.swaps])
        seen: Bools = np.arange(self.case.stages)[None, :] <= first[:, None]
        return seen

    @cached_property
    def score_errors(self) -> Floats:
        """Largest score error per image and stage, over both runs of the probe, (n, S)."""
        assert self.free is not None
        error = np.where(self.comparable, score_errors(self.free.scores, self.case.scores), 0.0)
        if self.forced is not None:
            error = np.maximum(error, score_errors(self.forced.scores, self.case.scores))
        return error

    @property
    def undecided(self) -> Bools:
        """Images where the product agrees neither with the reference nor with the probe's choice, (n,)."""
        return ~(self.agreement.worst <= self.limits.output) & ~self.product_matches_probe

    @cached_property
    def twin_errors(self) -> Floats:
        """Product against the probe's free run, in units of the reference's range, (n,)."""
        assert self.free is not None
        return worst(self.product, self.free.output, span(self.case.expected))

    @cached_property
    def product_matches_probe(self) -> Bools:
        """Product against the probe's free run, (n,). Both may be one limit away from the truth."""
        return self.twin_errors <= 2 * self.limits.output


def run_all(case: Case, limits: Limits, product: Session, probe: Session | None) -> Runs:
    """Run product and probe on all images of the case."""
    output = run_product(case, product)
    if probe is None:
        return Runs(case, limits, output)
    free = run_probe(case, probe)
    if free.output.shape != case.expected.shape or output.shape != case.expected.shape:
        return Runs(case, limits, output, free)
    widths = () if case.adaptive else forced_widths(case, probe)
    counts = tuple(int(count) for count in case.kept[0].sum(-1))
    forced = run_probe(case, probe, case.kept) if case.adaptive or widths == counts else None
    runs = Runs(case, limits, output, free, forced, widths)
    return replace(runs, tied=near_ties(case, limits, probe, free, output, runs.undecided))
