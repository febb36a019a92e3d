"""The latency of any keep counts, from latencies of equal ones.

With K tokens in every stage the model takes T(K); what is above T at the smallest count m is the work that
depends on K, and stage s does the part of it that its executed MACs are of all stages' MACs:

    latency(K_1..K_S) = T(m) + sum over s of part_s(K_s) * (T(K_s) - T(m))
    part_s(K) = (MACs with K in stages 1..s - MACs with K in 1..s-1) / (MACs with K in all - with m in all)

MACs only divide T(K) among stages that all run at K, so that they are K tokens in the same blocks and it
matters little that they say nothing about softmax or memory. What every variant pays (stem, first blocks,
selectors, the approximators of all rows) is in T(m). Measuring each stage by itself takes three times as many
graphs and predicted no better.

Between measured counts T is a straight line. Where noise made it fall, the neighbours that contradict each
other are replaced by their mean (pool adjacent violators): more tokens are never predicted faster.
Beyond the measured counts there is no prediction, only `OutsideTable`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from tofe_export.budget import check_keep, macs_executed
from tofe_export.errors import BudgetError
from tofe_export.latency.table import Entry


class OutsideTable(BudgetError):
    """Keep counts that the table does not reach."""


class Predictor:
    """Predicts from one entry of a table."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._counts = [step.keep for step in entry.steps]
        self._shares = rising([step.share for step in entry.steps])

    @property
    def least(self) -> int:
        """m, the smallest measured count."""
        return self._counts[0]

    @property
    def most(self) -> int:
        """The largest measured count."""
        return self._counts[-1]

    def share(self, keep: Sequence[int]) -> float:
        """Latency with K_1..K_S as a share of the dense model's.

        Raises OutsideTable for counts beyond the measured ones, BudgetError for impossible ones.
        """
        cost = self.entry.cost
        try:
            check_keep(cost, keep)
        except ValueError as error:
            raise BudgetError(f"keep counts: {error}") from error
        if outside := [k for k in keep if not self.least <= k <= self.most]:
            raise OutsideTable(
                f"the table holds {self.least} to {self.most} kept tokens ({self.entry.name}), and these "
                f"counts have {', '.join(map(str, outside))}: nothing is predicted there. Measure a ladder "
                "that reaches them: tofe-export advise --tokens K1,K2,..."
            )
        parts = [self._part(s, k) * (self._uniform(k) - self._shares[0]) for s, k in enumerate(keep)]
        return self._shares[0] + sum(parts)

    def ms(self, keep: Sequence[int]) -> float:
        """The same in milliseconds per run."""
        return self.share(keep) * self.entry.dense_ms

    def _uniform(self, keep: int) -> float:
        """T(K) as a share of the dense latency."""
        return float(np.interp(keep, self._counts, self._shares))

    def _part(self, stage: int, keep: int) -> float:
        """part_s(K), with stages from 0."""
        if keep == self.least:
            return 0.0
        here, before = (self._macs(keep, stages) for stages in (stage + 1, stage))
        return (here - before) / (self._macs(keep, self.entry.cost.stages) - self._floor)

    def _macs(self, keep: int, stages: int) -> int:
        """Executed MACs with `keep` tokens in the first `stages` stages and m in the others."""
        cost = self.entry.cost
        counts = (keep,) * stages + (self.least,) * (cost.stages - stages)
        return macs_executed(cost, counts, self.entry.lowering)

    @cached_property
    def _floor(self) -> int:
        return self._macs(self.least, 0)


def rising(values: Sequence[float]) -> list[float]:
    """The nearest values (least squares) that never fall."""
    pools: list[tuple[float, int]] = []  # mean, size
    for value in values:
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (right, n), (left, m) = pools.pop(), pools.pop()
            pools.append(((left * m + right * n) / (m + n), m + n))
    return [mean for mean, size in pools for _ in range(size)]
