"""From the numbers of a failed variant to a sentence: where it goes wrong, and what fits best.

Explanations are tried in the order of the list below, the more certain first. Causes (the codes are
part of the JSON report):

    output-shape, non-finite, input-ignored       seen directly
    keep-count, duplicate-tokens                  other numbers of tokens than the manifest's
    preprocessing, channel-order, reference-rows  proven by running again with other inputs
    scores-negated, ids-shifted, stages-swapped   a selection that goes wrong in a known way
    selection                                     kept sets do not follow from the scores
    selector-weights                              wrong scores, everything behind forced sets is right
    approximator, tokens-misplaced                wrong tokens behind a thaw
    stage                                         gather or blocks between two selections
    weights-or-reference                          wrong before anything is selected
    head                                          wrong behind the last selection
    saturation                                    values stick at a ceiling or shrink when large
    product-only, probe-only                      one of the two graphs is wrong in an unknown way
    no-probe                                      an engine that does not show its tokens
    does-not-run, reference                       nothing to compare (variant.py)
    unknown

A diagnosis explains a verdict and never changes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tofe_export.errors import TofeError
from tofe_export.verify import explain_graph, explain_stage
from tofe_export.verify.patient import Patient
from tofe_export.verify.report import Diagnosis

Explanation = Callable[[Patient], Diagnosis | None]

EXPLANATIONS: tuple[Explanation, ...] = (
    explain_graph.shape,
    explain_graph.not_finite,
    explain_stage.counts,
    explain_graph.input_ignored,
    explain_graph.inputs,
    explain_graph.rows,
    explain_graph.product_only,
    explain_stage.selection,
    explain_stage.selector,
    explain_stage.place,
    explain_graph.probe_only,
    explain_graph.whole,
)


def diagnose(patient: Patient) -> Diagnosis:
    """The first explanation that fits; an experiment that cannot run leaves the cause unknown."""
    try:
        fault = next((found for explain in EXPLANATIONS if (found := explain(patient)) is not None), None)
    except TofeError as error:
        return Diagnosis("unknown", "unknown", f"the experiments to find the cause did not run: {error}")
    if fault is None:
        return Diagnosis("unknown", "unknown", f"no known fault fits; failed: {', '.join(patient.failed)}")
    if fault.cause in ("output-shape", "probe-only") or patient.probe is None:
        return fault
    if patient.product_right:
        return replace(fault, sentence=f"in the probe graph only: {fault.sentence}")
    return fault
