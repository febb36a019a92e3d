"""Verify a bundle: preprocessing first, then every variant, then what the failures have in common.

One variant alone cannot tell a wrong graph from a wrong reference. Several can: the dense variant shares the
weights and nothing of the selection, so if it passes, the backbone's weights are right; if everything fails
while each product agrees with its probe, the graphs are the lesser suspects.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from importlib import metadata

import numpy as np

from tofe_export import __version__
from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError
from tofe_export.inputs import as_fed
from tofe_export.manifest import Variant
from tofe_export.reference import Reference
from tofe_export.runtime.session import Session
from tofe_export.verify.case import case_of
from tofe_export.verify.compare import Array
from tofe_export.verify.engines import engine_facts, engine_report, has_probe, prove_engines
from tofe_export.verify.preprocessing import check_preprocessing, remake
from tofe_export.verify.report import BundleReport, Check, VariantReport
from tofe_export.verify.variant import does_not_run, verify_variant

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "tensorrt")
BACKBONE = ("weights-or-reference", "stage", "head")  # causes that backbone weights could have


def verify_bundle(
    bundle: Bundle,
    variants: Sequence[Variant],
    backend: str = "onnxruntime",
    provider: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> BundleReport:
    """Run and judge `variants` of the bundle on one backend; `progress` is told each variant's name.

    Raises BundleError (files missing or changed, no probe where one belongs), MissingBackend, and UsageError
    (a precision without limits). A graph that computes wrongly, does not load or does not run is a verdict
    and not an error.
    """
    bundle.check(variants)
    if backend == "tensorrt":
        prove_engines(bundle, variants)
    reference, pre = bundle.reference(), bundle.manifest.preprocessing
    remade = remake(reference, pre)
    preprocessing = check_preprocessing(reference, pre, remade)
    usable = remade if not preprocessing.passed and remade.shape == reference.images.shape else None
    if usable is not None:
        usable = as_fed(usable, bundle.manifest.model, pre)
    reports = []
    judge = cache(lambda name: _verify(bundle, bundle.variant(name), "onnxruntime", "cpu", reference, usable))
    for variant in variants:
        if progress:
            progress(variant.name)
        report = _verify(bundle, variant, backend, provider, reference, usable)
        if backend == "tensorrt":
            report = engine_report(bundle, variant, report, lambda other: judge(other.name))
        reports.append(report)
    return conclude(str(bundle.path), machine_facts(backend, provider), preprocessing, reports)


def _verify(
    bundle: Bundle, variant: Variant, backend: str, provider: str, reference: Reference, remade: Array | None
) -> VariantReport:
    case = case_of(bundle.manifest, variant, reference)
    try:
        with ExitStack() as stack:
            product = stack.enter_context(Session.open(bundle, variant.name, backend, provider))
            probe = None
            if not case.dense and (backend != "tensorrt" or has_probe(bundle, variant)):
                probe = stack.enter_context(Session.open(bundle, variant.name, backend, provider, probe=True))
            return verify_variant(case, product, probe, backend, remade)
    except BundleError as error:  # its bytes are those that were exported, and the runtime cannot load them
        return does_not_run(case, backend, provider, error)


def conclude(
    bundle: str, machine: dict[str, str], preprocessing: Check, reports: Sequence[VariantReport]
) -> BundleReport:
    """Weigh the variants against each other: sharper sentences, and a common suspect where there is one."""
    dense = {report.precision: report.passed for report in reports if report.lowering == "dense"}
    weighed = tuple(_weighed(report, dense.get(report.precision)) for report in reports)
    return BundleReport(bundle, machine, preprocessing, weighed, _suspect(preprocessing, weighed))


def _weighed(report: VariantReport, dense_passes: bool | None) -> VariantReport:
    """Add what the dense variant of the same precision says about the backbone's weights."""
    fault = report.diagnosis
    if fault is None or dense_passes is None or report.lowering == "dense" or fault.cause not in BACKBONE:
        return report
    if not dense_passes:
        more = "The dense variant fails too, so suspect the shared weights or the reference"
    elif fault.evidence.get("concentrated"):
        fault = replace(fault, cause="saturation")
        more = "But the dense variant passes on the same weights, so something in this graph saturates"
    elif fault.cause == "weights-or-reference":
        fault = replace(fault, cause="stage")
        more = "But the dense variant passes on the same weights, so suspect an operator of this graph"
    else:
        more = "The dense variant passes on the same weights, so suspect what this graph adds (gather, thaw)"
    return report.with_diagnosis(replace(fault, sentence=f"{fault.sentence}. {more}"))


def _suspect(preprocessing: Check, reports: Sequence[VariantReport]) -> str | None:
    failing = [report for report in reports if not report.passed]
    if not failing or len(failing) < len(reports):
        return None
    if not preprocessing.passed:
        return "Every variant fails and so does preprocessing: the reference's images are the first suspect."
    consistent = all(check.name != "product is probe" for report in failing for check in report.failed)
    causes = {report.diagnosis.cause for report in failing if report.diagnosis}
    if (
        len(reports) > 1
        and consistent
        and causes <= {*BACKBONE, "selector-weights", "reference", "reference-rows"}
    ):
        return (
            "Every variant fails while the graphs agree among themselves: suspect the reference (made from "
            "another checkpoint) or the shared weights. Exporting again makes both anew."
        )
    return None


def machine_facts(backend: str, provider: str) -> dict[str, str]:
    """What a reader needs to judge or repeat the run: versions of what is installed, the engines' device."""
    facts = {
        "tofe_export": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "backend": backend,
        "provider": provider,
    }
    if backend == "tensorrt":
        facts |= engine_facts()
    installed = {
        str(package.metadata["Name"]).lower(): package.version for package in metadata.distributions()
    }
    return {name: installed[name] for name in RUNTIMES if name in installed} | facts
