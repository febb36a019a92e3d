"""What explanations look at: a failed variant with its runs, its failed checks, and its sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tofe_export.runtime.session import Session
from tofe_export.verify import symptoms
from tofe_export.verify.compare import Array, Bools, worst
from tofe_export.verify.report import Check
from tofe_export.verify.runs import Runs


@dataclass(frozen=True)
class Patient:
    """A failed variant: what was run, which checks failed, and the sessions for experiments."""

    runs: Runs
    failed: Mapping[str, Check]
    product: Session
    probe: Session | None
    remade: Array | None  # images made anew from the source pixels, where they differ from the stored ones

    @property
    def product_right(self) -> bool:
        """The product gives the reference's output on every image where the reference's sets were kept."""
        runs = self.runs
        return bool((runs.agreement.worst <= runs.limits.output).all())

    @property
    def probe_right(self) -> bool:
        """The probe passes every check that does not involve the product."""
        runs = self.runs
        inner = {"kept counts", "scores", "kept sets", f"forced {runs.case.output}"}
        if runs.free is None or inner & self.failed.keys():
            return False
        return bool((worst(runs.free.output, runs.case.expected) <= runs.limits.output)[runs.equal].all())


def saturation(found: Array, expected: Array) -> str:
    """A half sentence about outputs or scores that stick or shrink, or nothing."""
    if (edge := symptoms.ceiling(found, expected)) is not None:
        return f"; values stick at {edge:.6g}, so something clips or saturates"
    if symptoms.shrinks(found, expected):
        return "; large values come out too small while small ones are right, so something saturates"
    return ""


def concentration(found: Array, expected: Array, among: Bools | None = None) -> tuple[str, dict[str, bool]]:
    """(half sentence, evidence) where the errors of scores (n, N) concentrate on few tokens: a hint only."""
    if symptoms.concentrated(found, expected, among):
        return "; the errors concentrate on few tokens, as saturation makes them", {"concentrated": True}
    return "", {}
