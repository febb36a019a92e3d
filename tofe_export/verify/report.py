"""The result of verification: for machines a JSON object, for people a table and a few sentences.

    {"passed": bool, "bundle": str, "machine": {...},
     "preprocessing": CHECK, "suspect": str | null,
     "variants": [{"name", "passed", "precision", "lowering", "batch", "backend", "provider", "images",
                   "checks": [CHECK],
                   "stages": [{"stage", "overlap", "margin", "score_error", "swapped_images"}],
                   "output": {"worst", "mean", "cosine", "top1"} | null,
                   "diagnosis": {"cause", "place", "stage", "sentence", "evidence"} | null,
                   "notes": [str],
                   "three_way": {"views": [{"name", "passed", "worst", "detail"}],
                                 "blame": "graph" | "typing" | "compiler" | null, "sentence"} | null}]}
    CHECK = {"name", "passed", "detail", "numbers"}

Errors are fractions of the reference's range. JSON has no NaN or infinity: such numbers become null, and the
check that found them says so in words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
class View:
    """One runtime's answers against PyTorch's; `passed` is None where it could not run."""

    name: str
    passed: bool | None
    worst: float | None
    detail: str

    def __str__(self) -> str:
        verdict = "does not run" if self.passed is None else _verdict(self.passed)
        return f"{self.name}: {verdict}" + ("" if self.worst is None else f" ({self.worst:.1e})")


@dataclass(frozen=True)
class ThreeWay:
    """Engine and ONNX Runtime against PyTorch. `blame`: "graph", "typing", "compiler", or None."""

    views: tuple[View, ...]
    blame: str | None
    sentence: str


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
    notes: tuple[str, ...] = ()  # what was not looked at
    three_way: ThreeWay | None = None  # TensorRT only

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
        lines = [self.machine["device"]] if "device" in self.machine else []
        lines += [f"preprocessing: {_verdict(checked.passed)}, {checked.detail}", ""]
        lines += [_row("variant", "verdict", "worst", "top-1", "overlap", "scores")]
        lines += [_variant_row(variant) for variant in self.variants]
        lines += _notes(self.variants) + _other_runtime(self.variants)
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
    if report.three_way:
        lines += [f"  {view}" for view in report.three_way.views]
        if report.three_way.sentence:
            lines += [f"  => {report.three_way.sentence} [{report.three_way.blame or 'undecided'}]"]
    return lines


def _other_runtime(reports: Sequence[VariantReport]) -> list[str]:
    """What ONNX Runtime says of the engines' graphs, where it was asked."""
    asked = [report for report in reports if report.three_way and len(report.three_way.views) > 1]
    odd = [report.name for report in asked if report.three_way and not report.three_way.views[1].passed]
    if not asked:
        return []
    found = f"not on {', '.join(odd)}" if odd else "on all of them"
    return ["", f"ONNX Runtime on the same {len(asked)} graphs agrees with PyTorch {found}"]


def _notes(reports: Sequence[VariantReport]) -> list[str]:
    """What was not looked at, each once with the variants it concerns."""
    notes: dict[str, list[str]] = {}
    for report in reports:
        for note in report.notes:
            notes.setdefault(note, []).append(report.name)
    return [line for note, names in notes.items() for line in ("", f"{note}: {', '.join(names)}")]
