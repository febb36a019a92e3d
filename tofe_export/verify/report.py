"""The result of verification: for machines a JSON object, for people a table and a few sentences.

    {"passed": bool, "bundle": str, "machine": {...},
     "preprocessing": CHECK, "suspect": str | null,
     "variants": [{"name", "passed", "precision", "lowering", "batch", "backend", "provider", "images",
                   "checks": [CHECK],
                   "stages": [{"stage", "overlap", "margin", "score_error", "swapped_images"}],
                   "output": {"worst", "mean", "cosine", "top1"} | null,
                   "diagnosis": {"cause", "place", "stage", "sentence", "evidence"} | null}]}
    CHECK = {"name", "passed", "detail", "numbers"}

Errors are fractions of the reference's range. JSON has no NaN or infinity: such numbers become null, and the
check that found them says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Check:
    """One claim that was tested: `detail` says it in words, `numbers` holds what was measured."""

    name: str
    passed: bool
    detail: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Diagnosis:
    """What fits a failure best. `cause` is a code of diagnose.py, `stage` counts from 1."""

    cause: str
    place: str
    sentence: str
    stage: int | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageSummary:
    """One selection over all images: least overlap of kept sets, least margin, largest score error."""

    stage: int
    overlap: float
    margin: float
    score_error: float | None
    swapped_images: int


@dataclass(frozen=True)
class OutputSummary:
    """The product's output against the reference: largest and mean error, least cosine, top-1 agreement."""

    worst: float
    mean: float
    cosine: float
    top1: float | None


@dataclass(frozen=True)
class VariantReport:
    """One variant on one backend."""

    name: str
    precision: str
    lowering: str
    batch: int | str
    backend: str
    provider: str
    images: int
    checks: tuple[Check, ...]
    stages: tuple[StageSummary, ...] = ()
    output: OutputSummary | None = None
    diagnosis: Diagnosis | None = None

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed, in order."""
        return tuple(check for check in self.checks if not check.passed)

    def with_diagnosis(self, diagnosis: Diagnosis) -> VariantReport:
        """The same report with another diagnosis."""
        return replace(self, diagnosis=diagnosis)


@dataclass(frozen=True)
class BundleReport:
    """All variants that were looked at. `suspect` names what they have in common when they fail alike."""

    bundle: str
    machine: Mapping[str, str]
    preprocessing: Check
    variants: tuple[VariantReport, ...]
    suspect: str | None = None

    @property
    def passed(self) -> bool:
        """Whether preprocessing and every variant passed."""
        return self.preprocessing.passed and all(variant.passed for variant in self.variants)

    def to_json(self) -> dict[str, Any]:
        """The layout of the module docstring."""
        variants = [{**asdict(v), "passed": v.passed} for v in self.variants]
        data = {**asdict(self), "passed": self.passed, "variants": variants}
        plain: dict[str, Any] = _plain(data)
        return plain

    def text(self) -> str:
        """A table with one line per variant, then what failed and what fits it."""
        checked = self.preprocessing
        lines = [f"preprocessing: {_verdict(checked.passed)}, {checked.detail}", ""]
        lines += [_row("variant", "verdict", "worst", "top-1", "overlap", "scores")]
        lines += [_variant_row(variant) for variant in self.variants]
        for variant in self.variants:
            lines += _explanation(variant)
        if self.suspect:
            lines += ["", self.suspect]
        return "\n".join(lines)


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON is untyped by nature
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # numpy scalars
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _verdict(passed: bool) -> str:
    return "ok" if passed else "FAILED"


def _row(*cells: str) -> str:
    name, *rest = cells
    return f"{name:32} " + " ".join(f"{cell:>9}" for cell in rest)


def _variant_row(report: VariantReport) -> str:
    output, stages = report.output, report.stages
    errors = [stage.score_error for stage in stages if stage.score_error is not None]
    return _row(
        report.name,
        _verdict(report.passed),
        f"{output.worst:.1e}" if output else "-",
        f"{output.top1:.1%}" if output and output.top1 is not None else "-",
        f"{min(stage.overlap for stage in stages):.1%}" if stages else "-",
        f"{max(errors):.1e}" if errors else "-",
    )


def _explanation(report: VariantReport) -> list[str]:
    if report.passed:
        return []
    lines = ["", f"{report.name}:"]
    lines += [f"  {check.name}: {check.detail}" for check in report.failed]
    if report.diagnosis:
        lines += [f"  => {report.diagnosis.sentence} [{report.diagnosis.cause}; {report.diagnosis.place}]"]
    return lines
