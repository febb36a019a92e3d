"""A whole bundle: fakes behind Session.open, everything else real."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError
from tofe_export.files import sha256_file
from tofe_export.manifest import Variant
from tofe_export.preprocess import Preprocessing, apply
from tofe_export.reference import Reference
from tofe_export.runtime.session import Session
from tofe_export.verify.case import Case, case_of
from tofe_export.verify.report import BundleReport, Check, Diagnosis, VariantReport
from tofe_export.verify.run import conclude, verify_bundle

MakeCase = Callable[..., Case]
MakeSession = Callable[..., Session]
Verify = Callable[..., BundleReport]
PRE = Preprocessing((12, 12), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
OK = Check("preprocessing", True, "8 images")


def holding(bundle: Bundle, reference: Reference) -> Bundle:
    """The bundle with this reference in it."""
    path = bundle.path / "reference.npz"
    path.unlink()
    reference.save(path)
    info = replace(bundle.manifest.reference, sha256=sha256_file(path), count=len(reference))
    return Bundle(bundle.path, replace(bundle.manifest, reference=info))


@pytest.fixture
def fake_bundle(bundle: Bundle, make_case: MakeCase) -> Bundle:
    """The small bundle, fitted to the fake of conftest.py: one dense and one reduced variant."""
    random = np.random.RandomState(0)
    sources = [random.randint(0, 256, (15, 20, 3)).astype(np.uint8) for _ in range(8)]
    case = make_case(0, images=np.stack([apply(source, PRE) for source in sources]))
    reference = Reference(case.images, sources, {})
    reference = reference.with_entry("keep", case.expected, case.scores, case.kept)
    reference = reference.with_entry("dense", make_case(0, images=case.images).expected)
    manifest = bundle.manifest
    dense, reduced, _ = manifest.variants
    manifest = replace(
        manifest,
        model=replace(manifest.model, tokens=case.tokens, locations=case.locations),
        cost=replace(manifest.cost, depth=case.depth, locations=case.locations, tokens=case.tokens),
        preprocessing=PRE,
        variants=(dense, replace(reduced, keep=case.keep, reference="keep")),
    )
    return holding(Bundle(bundle.path, manifest), reference)


@pytest.fixture
def verify(fake_bundle: Bundle, make_session: MakeSession, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Verify the fake bundle; faults per variant name."""

    def run(
        faults: Mapping[str, Mapping[str, object]] | None = None, held: Bundle | None = None
    ) -> BundleReport:
        def fake_open(bundle: Bundle, name: str, backend: str, provider: str, probe: bool = False) -> Session:
            fields = (faults or {}).get(name, {})
            if "broken" in fields:
                raise BundleError("expected an ONNX graph, found another")
            return make_session(0, probe, **fields)

        monkeypatch.setattr(Session, "open", fake_open)
        bundle = held or fake_bundle
        return verify_bundle(bundle, bundle.manifest.variants)

    return run


def cause_of(report: VariantReport) -> str:
    assert report.diagnosis is not None
    return report.diagnosis.cause


def test_a_clean_bundle_passes(verify: Verify) -> None:
    report = verify()
    assert report.passed, report.text()
    assert report.suspect is None
    assert report.machine["backend"] == "onnxruntime"
    assert report.variants[1].provider == "fake"


def test_json_is_strict_and_complete(verify: Verify) -> None:
    report = verify({"2.00g-scatter-fp32-b1": {"nan_block": 3}})
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["passed"] is False
    dense, reduced = data["variants"]
    assert (dense["passed"], reduced["passed"]) == (True, False)
    assert {*reduced} == {
        *("name", "passed", "precision", "lowering", "batch", "backend", "provider", "images"),
        *("checks", "stages", "output", "diagnosis", "notes", "three_way"),
    }
    assert {*reduced["checks"][0]} == {"name", "passed", "detail", "numbers"}
    assert reduced["output"]["worst"] is None  # infinite
    assert reduced["diagnosis"]["cause"] == "non-finite"


def test_text_has_a_line_per_variant_and_explains_failures(verify: Verify) -> None:
    text = verify({"2.00g-scatter-fp32-b1": {"negate": (0,)}}).text()
    assert "preprocessing: ok" in text
    assert "dense-fp32-b1" in text
    assert "FAILED" in text
    assert "[scores-negated; selector 1]" in text


def test_a_graph_that_does_not_load_is_one_variants_verdict(verify: Verify) -> None:
    report = verify({"2.00g-scatter-fp32-b1": {"broken": True}})
    dense, reduced = report.variants
    assert dense.passed
    assert cause_of(reduced) == "does-not-run"


def test_images_that_the_preprocessing_does_not_make(verify: Verify, fake_bundle: Bundle) -> None:
    old = fake_bundle.reference()
    changed = Reference(old.images[:, ::-1].copy(), old.sources, old.entries)
    report = verify(held=holding(fake_bundle, changed))
    assert not report.preprocessing.passed
    assert [cause_of(variant) for variant in report.variants] == ["preprocessing"] * 2
    assert report.suspect is not None
    assert "images are the first suspect" in report.suspect


def test_a_stale_reference_is_suspected_where_all_fail_alike(verify: Verify) -> None:
    stale = {"stale": "stem"}
    report = verify({"dense-fp32-b1": stale, "2.00g-scatter-fp32-b1": stale})
    assert report.suspect is not None
    assert "suspect the reference" in report.suspect
    assert "The dense variant fails too" in report.text()


def test_a_dense_variant_that_passes_clears_the_weights(verify: Verify) -> None:
    report = verify({"2.00g-scatter-fp32-b1": {"stale": "mlp_3"}})
    assert report.suspect is None
    assert "The dense variant passes on the same weights" in report.text()


def failing(cause: str, **evidence: bool) -> VariantReport:
    checks = (Check("forced logits", False, ""),)
    diagnosis = Diagnosis(cause, "somewhere", "wrong", evidence=evidence)
    return VariantReport("v", "fp32", "scatter", 1, "", "", 1, checks, diagnosis=diagnosis)


@pytest.mark.parametrize(
    ("report", "cause"),
    [
        (failing("weights-or-reference"), "stage"),
        (failing("weights-or-reference", concentrated=True), "saturation"),
        (failing("stage", concentrated=True), "saturation"),
        (failing("scores-negated"), "scores-negated"),
    ],
)
def test_a_dense_variant_that_passes_changes_the_cause(report: VariantReport, cause: str) -> None:
    dense = replace(report, name="dense", lowering="dense", checks=(), diagnosis=None)
    seen = conclude("b", {}, OK, [dense, report]).variants[1].diagnosis
    assert seen is not None
    assert seen.cause == cause


def test_a_reduced_variant_needs_its_probe_and_thresholds(fake_bundle: Bundle) -> None:
    def case(**change: object) -> Case:
        variant: Variant = replace(fake_bundle.manifest.variants[1], **change)  # type: ignore[arg-type]
        return case_of(fake_bundle.manifest, variant, fake_bundle.reference())

    assert case().stages == 2
    with pytest.raises(BundleError, match="expected a probe graph"):
        case(probe=None)
    with pytest.raises(BundleError, match="thresholds"):
        case(lowering="adaptive")
