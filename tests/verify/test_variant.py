"""Clean fakes pass, whatever their near ties; every planted fault is found and named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tofe_export.errors import UsageError
from tofe_export.verify.case import Case
from tofe_export.verify.report import VariantReport

Run = Callable[..., VariantReport]
MakeCase = Callable[..., Case]

STEM = "between the images and selection 1 (block 2)"
MIDDLE = "between selection 1 (block 2) and selection 2 (block 4)"
END = "between selection 2 (block 4) and the output"

FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"adaptive": True},
    {"reuse": False},
    {"batch": "batch"},
    {"batch": 3},
    {"batch": 1},
    {"adaptive": True, "reuse": False},
)

FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"negate": (0,)}, "scores-negated", "selector 1"),
    ({"negate": (1,)}, "scores-negated", "selector 2"),
    ({"lowest": (0,)}, "scores-negated", "selection 1"),
    ({"lowest": (1,)}, "scores-negated", "selection 2"),
    ({"swap_selectors": True}, "stages-swapped", "selectors 1 and 2"),
    ({"shift_ids": {0: 1}}, "ids-shifted", "selection 1"),
    ({"shift_ids": {1: -1}}, "ids-shifted", "selection 2"),
    ({"shift_gather": {0: 1}}, "ids-shifted", "selection 1"),
    ({"shift_gather": {1: -1}}, "ids-shifted", "selection 2"),
    ({"shift_thaw": 1}, "tokens-misplaced", "thaw 1"),
    ({"duplicate": True}, "duplicate-tokens", "selection"),
    ({"channels": (2, 1, 0)}, "channel-order", "the images"),
    ({"clip": {1: 1.5}}, "weights-or-reference", STEM),
    ({"clip": {3: 2.0}}, "stage", MIDDLE),
    ({"clip_output": 1.0}, "saturation", END),
    ({"stale": "stem"}, "weights-or-reference", STEM),
    ({"stale": "mlp_1"}, "weights-or-reference", STEM),
    ({"stale": "mix_2"}, "stage", MIDDLE),
    ({"stale": "mlp_5"}, "head", END),
    ({"stale": "head"}, "head", END),
    ({"stale": "selector_0"}, "selector-weights", "selector 1"),
    ({"stale": "selector_1"}, "selector-weights", "selector 2"),
    ({"stale": "approximator"}, "approximator", "approximator 1"),
    ({"nan_block": 0}, "non-finite", STEM),
    ({"nan_block": 3}, "non-finite", MIDDLE),
    ({"nan_block": 5}, "non-finite", END),
    ({"constant": True}, "input-ignored", "the whole graph"),
    ({"roll_rows": 1}, "reference-rows", "the batch axis"),
    ({"keep": (16, 7)}, "keep-count", "selection 1"),
    ({"keep": (15, 6)}, "keep-count", "selection 2"),
    ({"keep": (7, 15)}, "stages-swapped", "keep counts"),
]

PRODUCT_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"negate": (1,)}, "scores-negated"),
    ({"lowest": (0,)}, "scores-negated"),
    ({"shift_ids": {0: 1}}, "ids-shifted"),
    ({"shift_gather": {1: 1}}, "ids-shifted"),
    ({"channels": (2, 1, 0)}, "channel-order"),
    ({"keep": (15, 8)}, "product-only"),
    ({"swap_selectors": True}, "product-only"),
    ({"clip": {3: 2.0}}, "product-only"),
    ({"clip_output": 1.0}, "saturation"),
    ({"nan_block": 5}, "non-finite"),
]


def failures(report: VariantReport) -> list[str]:
    return [f"{check.name}: {check.detail}" for check in report.failed]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_clean_variant_passes(run: Run, seed: int, form: dict[str, Any]) -> None:
    report = run(seed, **form)
    assert failures(report) == []
    assert report.diagnosis is None
    assert report.output is not None
    assert report.output.worst < 1e-5
    assert report.output.top1 == 1.0
    assert [stage.overlap for stage in report.stages] == [1.0, 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS[:3], ids=str)
def test_near_ties_raise_no_alarm(run: Run, form: dict[str, Any]) -> None:
    reports = [run(seed, both={"score_noise": 5e-5}, tight=True, **form) for seed in range(25)]
    assert [failures(report) for report in reports] == [[]] * 25
    details = [check.detail for report in reports for check in report.checks]
    assert any("near ties on the others" in detail for detail in details)
    assert any("explained by near ties" in detail for detail in details)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("fault", "cause", "place"), FAULTS, ids=str)
def test_a_fault_in_both_graphs(run: Run, seed: int, fault: dict[str, Any], cause: str, place: str) -> None:
    report = run(seed, both=fault)
    assert not report.passed
    assert report.diagnosis is not None
    assert (report.diagnosis.cause, report.diagnosis.place) == (cause, place), report.diagnosis.sentence


@pytest.mark.parametrize("form", FORMS[1:3], ids=str)
@pytest.mark.parametrize("fault", [fault for fault, _, _ in FAULTS if "keep" not in fault], ids=str)
def test_a_fault_in_other_forms(run: Run, form: dict[str, Any], fault: dict[str, Any]) -> None:
    harmless = ("shift_thaw", "swap_selectors") if "reuse" in form else ("duplicate", "roll_rows", "lowest")
    if fault.keys() & {*harmless} or ("reuse" in form and fault.get("stale") == "approximator"):
        pytest.skip("the fault does nothing, or cannot be planted, in this form of the fake")
    report = run(0, both=fault, **form)
    assert not report.passed
    assert report.diagnosis is not None
    assert report.diagnosis.cause != "unknown"


@pytest.mark.parametrize(("fault", "cause"), PRODUCT_FAULTS, ids=str)
def test_a_fault_in_the_product_alone(run: Run, fault: dict[str, Any], cause: str) -> None:
    report = run(0, product=fault)
    assert not report.passed
    assert report.diagnosis is not None
    assert report.diagnosis.cause == cause


@pytest.mark.parametrize(("fault", "cause", "place"), FAULTS, ids=str)
def test_a_fault_in_the_probe_alone(run: Run, fault: dict[str, Any], cause: str, place: str) -> None:
    report = run(0, probe=fault)
    assert not report.passed
    assert report.diagnosis is not None
    assert report.diagnosis.sentence.startswith("in the probe graph only:")


def test_a_probe_that_always_forces_is_found(run: Run) -> None:
    report = run(0, probe={"stubborn": True})
    assert "kept sets" in {check.name for check in report.failed}


def test_a_stale_reference_fails_from_the_first_stage(run: Run, make_case: MakeCase) -> None:
    other = make_case(7)
    report = run(0, case={"expected": other.expected, "scores": other.scores, "kept": other.kept})
    assert report.diagnosis is not None
    assert report.diagnosis.cause == "weights-or-reference"


def test_a_stale_output_of_the_reference(run: Run, make_case: MakeCase) -> None:
    report = run(0, case={"expected": make_case(7).expected})
    assert {check.name for check in report.failed} >= {"logits", "forced logits"}
    assert "product is probe" not in {check.name for check in report.failed}
    assert report.diagnosis is not None
    assert "stale" in report.diagnosis.sentence


@pytest.mark.parametrize(
    ("change", "cause", "words"),
    [
        ({"keep": (15, 8)}, "keep-count", "the manifest keeps 8 tokens, the reference 7"),
        ({"expected": np.full((8, 10), np.nan, np.float32)}, "reference", "NaN in image 0"),
        (
            {"expected": np.zeros((8, 11), np.float32)},
            "output-shape",
            "expected (8, 11), found product (8, 10)",
        ),
    ],
)
def test_a_reference_that_cannot_be_judged_by(
    run: Run, change: dict[str, Any], cause: str, words: str
) -> None:
    report = run(0, case=change)
    assert not report.passed
    assert report.diagnosis is not None
    assert report.diagnosis.cause == cause
    assert words in report.diagnosis.sentence


def test_a_reference_whose_sets_do_not_follow_from_its_scores(run: Run, make_case: MakeCase) -> None:
    report = run(0, case={"kept": make_case(0).kept[:, :, ::-1]})
    assert [check.name for check in report.failed] == ["reference"]


def test_a_probe_without_its_inputs_does_not_run(run: Run) -> None:
    report = run(0, probe={"keep": (15,)})
    assert report.diagnosis is not None
    assert report.diagnosis.cause == "does-not-run"
    assert "'force_2'" in report.diagnosis.sentence


def test_images_made_anew_prove_that_stored_ones_are_wrong(run: Run, make_case: MakeCase) -> None:
    images = make_case(0).images
    report = run(0, case={"images": images * 1.1}, remade=images)
    assert report.diagnosis is not None
    assert report.diagnosis.cause == "preprocessing"


def test_a_precision_without_limits_is_a_usage_error(run: Run) -> None:
    with pytest.raises(UsageError, match="no limits for precision 'int4'"):
        run(0, case={"precision": "int4"})
