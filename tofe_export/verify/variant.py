"""One variant: run it, check it, and say what is wrong with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from tofe_export.errors import TofeError
from tofe_export.runtime.session import Session
from tofe_export.verify.case import Case
from tofe_export.verify.checks import all_checks, check_reference
from tofe_export.verify.compare import Array
from tofe_export.verify.diagnose import diagnose
from tofe_export.verify.limits import limits_for
from tofe_export.verify.patient import Patient
from tofe_export.verify.report import Check, Diagnosis, OutputSummary, StageSummary, VariantReport
from tofe_export.verify.runs import Runs, run_all
from tofe_export.verify.sets import margins, overlap


def verify_variant(
    case: Case, product: Session, probe: Session | None, backend: str = "", remade: Array | None = None
) -> VariantReport:
    """Compare a variant with the reference. `probe` is None for dense variants and engines without one.

    `remade` are the images as the manifest's preprocessing makes them, as the graph takes them, given where
    they differ from the stored ones. Raises UsageError for a precision without limits; whatever a graph does
    wrong, not running included, is in the report.
    """
    limits = limits_for(case.precision, case.rounding)
    empty = _empty(case, backend, product.provider)
    reference = check_reference(case)
    if not reference.passed:
        cause = "keep-count" if "keep" in reference.numbers else "reference"
        fault = Diagnosis(cause, "the reference", reference.detail, reference.numbers.get("stage"))
        return replace(empty, checks=(reference,), diagnosis=fault)
    try:
        runs = run_all(case, limits, product, probe)
    except TofeError as error:
        return does_not_run(case, backend, product.provider, error)
    report = replace(empty, checks=(reference, *all_checks(runs)))
    if runs.product.shape == case.expected.shape:
        report = replace(report, stages=_stages(runs), output=_output(runs))
    if report.passed:
        return report
    failed = {check.name: check for check in report.failed}
    return replace(report, diagnosis=diagnose(Patient(runs, failed, product, probe, remade)))


def does_not_run(case: Case, backend: str, provider: str, error: TofeError) -> VariantReport:
    """The report of a variant whose graphs cannot be loaded or run."""
    fault = Diagnosis("does-not-run", "the graph", f"the graph does not run: {error}")
    check = Check("runs", False, str(error))
    return replace(_empty(case, backend, provider), checks=(check,), diagnosis=fault)


def _empty(case: Case, backend: str, provider: str) -> VariantReport:
    """A report without checks."""
    count = len(case.images)
    return VariantReport(case.name, case.precision, case.lowering, case.batch, backend, provider, count, ())


def _output(runs: Runs) -> OutputSummary:
    seen = runs.agreement
    return OutputSummary(
        float(seen.worst.max()), float(seen.mean.mean()), float(seen.cosine.min()), seen.top1
    )


def _stages(runs: Runs) -> tuple[StageSummary, ...]:
    """One line per selection; later stages of an image whose sets differ count for the overlap only."""
    case, free = runs.case, runs.free
    if free is None or free.output.shape != case.expected.shape:
        return ()
    shared = overlap(free.kept, case.kept)
    room, error = margins(case.scores, case.kept, case.thresholds), runs.score_errors
    different = (free.kept != case.kept).any(-1) & runs.comparable
    return tuple(
        StageSummary(
            stage=s + 1,
            overlap=float(shared[:, s].min()),
            margin=float(room[:, s].min()),
            score_error=float(np.max(error[:, s])),
            swapped_images=int(different[:, s].sum()),
        )
        for s in range(case.stages)
    )
