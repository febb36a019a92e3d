"""Explanations that concern a graph as a whole: its form, its inputs, and one graph without its twin.

Each takes a Patient and returns a Diagnosis, or None where it does not fit.
"""

from __future__ import annotations

from tofe_export.verify.experiments import imitations, matching_rows, other_inputs
from tofe_export.verify.patient import Patient, saturation
from tofe_export.verify.report import Diagnosis


def shape(patient: Patient) -> Diagnosis | None:
    """The output has another shape."""
    if check := patient.failed.get("output shape"):
        return Diagnosis("output-shape", "the output", check.detail)
    return None


def not_finite(patient: Patient) -> Diagnosis | None:
    """NaN or Inf, and where they appear first."""
    if (check := patient.failed.get("finite")) is None:
        return None
    stage = int(check.numbers["stage"])
    place = patient.runs.case.between(stage - 1)
    sentence = f"values stop being finite {place}: {check.detail}"
    return Diagnosis("non-finite", place, sentence, min(stage, max(patient.runs.case.stages, 1)))


def input_ignored(patient: Patient) -> Diagnosis | None:
    """The same answer to every image."""
    if check := patient.failed.get("depends on input"):
        sentence = f"the graph does not use its input: {check.detail}"
        return Diagnosis("input-ignored", "the whole graph", sentence)
    return None


def inputs(patient: Patient) -> Diagnosis | None:
    """The graph is right on other inputs: channels in another order, or images made anew."""
    runs = patient.runs
    if patient.product_right:
        return None
    order = other_inputs(runs.case, runs.limits, patient.product, patient.remade)
    if order == "remade":
        sentence = "the graph is right on images made from the source pixels: the stored images are wrong"
        return Diagnosis("preprocessing", "the reference's images", sentence)
    if order:
        sentence = f"the graph expects its channels as {order}: with that order its output is the reference's"
        return Diagnosis("channel-order", "the images", sentence, evidence={"order": order})
    return None


def rows(patient: Patient) -> Diagnosis | None:
    """Outputs that are another image's."""
    runs = patient.runs
    if patient.product_right:
        return None
    if found := matching_rows(runs.product, runs.case.expected, runs.limits):
        sentence = "outputs belong to other images: rows of the reference, or of the batch, are mixed up"
        return Diagnosis("reference-rows", "the batch axis", sentence, evidence={"rows": found})
    return None


def product_only(patient: Patient) -> Diagnosis | None:
    """The probe is right in everything, the product is not: let the probe imitate what may be wrong."""
    runs = patient.runs
    if patient.probe is None or not patient.probe_right or patient.product_right:
        return None
    failing = runs.undecided
    fault = imitations(runs.case, runs.limits, patient.probe, runs.product, failing)
    if fault is not None:
        name, stage = fault
        where = f"selection {stage + 1}" if stage >= 0 else "every selection"
        cause = "scores-negated" if name == "negated" else "ids-shifted"
        what = "keeps the lowest scores" if name == "negated" else f"keeps ids off by {name.split()[1]}"
        sentence = f"in the product graph only: {where} {what} (its output can be imitated that way)"
        return Diagnosis(cause, where, sentence, stage + 1 if stage >= 0 else None)
    cause = "saturation" if (hint := saturation(runs.product, runs.case.expected)) else "product-only"
    right = int((~failing).sum())
    if right and not hint:
        hint = f"; {right} of {len(failing)} images are right, so the fault depends on what is in them"
    sentence = (
        "the product graph alone is wrong: its probe agrees with the reference throughout, and keeping the "
        f"lowest or neighbouring tokens does not give its output; suspect its own operators{hint}"
    )
    return Diagnosis(cause, "the product graph", sentence)


def probe_only(patient: Patient) -> Diagnosis | None:
    """Something else is wrong with the probe alone."""
    if patient.probe is None or not patient.product_right:
        return None
    sentence = "the product is right and its probe is not: they do not compute the same"
    return Diagnosis("probe-only", "the probe graph", sentence)


def whole(patient: Patient) -> Diagnosis | None:
    """Without a probe there is no inner evidence: dense variants, and engines built without one."""
    runs = patient.runs
    if patient.probe is not None:
        return None
    if not runs.case.dense:
        sentence = (
            f"the {runs.case.output} differ, and without a probe nothing tells whether a near tie among "
            "tokens explains it, or where it begins: build one (tofe-export trt --probe) and verify again"
        )
        return Diagnosis("no-probe", "the engine", sentence)
    hint = saturation(runs.product, runs.case.expected)
    sentence = f"the dense output differs: weights are not the checkpoint's, or the reference is stale{hint}"
    return Diagnosis("saturation" if hint else "weights-or-reference", runs.case.between(0), sentence)
