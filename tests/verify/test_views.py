"""Whom a failing engine points at: all the ways that three views can come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_bundle

from tofe_export.bundle import Bundle
from tofe_export.manifest import Variant
from tofe_export.verify import views
from tofe_export.verify.report import BundleReport, Check, OutputSummary, VariantReport
from tofe_export.verify.views import three_way, view_of

FLOAT, HALF = "0.01g-scatter-fp32-b1", "0.01g-scatter-fp16-b1"


class Sidecar:
    """As much of a sidecar as is looked at."""

    def __init__(self, twin: str | None = None) -> None:
        self.twin = twin


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(tiny_bundle.write_bundle(tmp_path / "bundle"))


def report(name: str, passed: bool, runs: bool = True) -> VariantReport:
    check = Check("logits" if runs else "runs", passed and runs, "largest error 1.0e-01")
    output = OutputSummary(0.1, 0.05, 0.9, 1.0) if runs else None
    return VariantReport(name, "fp32", "scatter", 1, "tensorrt", "tensorrt", 3, (check,), output=output)


def judge(**passed: bool | None) -> Callable[[Variant], VariantReport]:
    """ONNX Runtime's reports by precision; None: it cannot run that graph."""
    return lambda variant: report(
        variant.name, bool(passed[variant.precision]), passed[variant.precision] is not None
    )


def test_an_engine_that_passes_accuses_nobody(bundle: Bundle) -> None:
    found = three_way(bundle, bundle.variant(FLOAT), report(FLOAT, True), Sidecar(), judge(fp32=True))  # type: ignore[arg-type]
    assert (found.blame, found.sentence) == (None, "")
    assert [view.passed for view in found.views] == [True, True]


def test_an_engine_that_did_not_run_accuses_nobody(bundle: Bundle) -> None:
    refused = report(FLOAT, False, runs=False)
    found = three_way(bundle, bundle.variant(FLOAT), refused, Sidecar(), judge(fp32=True))  # type: ignore[arg-type]
    assert found.blame is None
    assert found.sentence == "the engine did not run: nothing is known of what it would answer"
    assert [view.passed for view in found.views] == [None, True]


@pytest.mark.parametrize(
    ("name", "twin", "onnxruntime", "blame", "words"),
    [
        (FLOAT, None, {"fp32": True}, "compiler", "what TensorRT compiled is wrong"),
        (FLOAT, None, {"fp32": False}, "graph", "the graph is wrong"),
        (FLOAT, None, {"fp32": None}, None, "cannot tell graph from compiler"),
        (HALF, None, {"fp16": True}, "compiler", "has no evaluation of it"),
        (HALF, None, {"fp16": False, "fp32": True}, "typing", "the typing is wrong"),
        (HALF, None, {"fp16": False, "fp32": False}, "graph", "and on its float32 graph"),
        (HALF, FLOAT, {"fp32": True}, "compiler", "half precision as TensorRT places it"),
        (HALF, FLOAT, {"fp32": False}, "graph", "the graph is wrong"),
    ],
)
def test_a_failing_engine(
    bundle: Bundle,
    name: str,
    twin: str | None,
    onnxruntime: dict[str, bool | None],
    blame: str | None,
    words: str,
) -> None:
    variant = bundle.variant(name)
    found = three_way(bundle, variant, report(name, False), Sidecar(twin), judge(**onnxruntime))  # type: ignore[arg-type]
    assert found.blame == blame
    assert words in found.sentence


def test_an_evaluated_typing_is_not_accused(bundle: Bundle) -> None:
    variant = bundle.variant(HALF)
    variant = replace(variant, extra={**variant.extra, "evaluated": {"images": 4}})
    found = three_way(bundle, variant, report(HALF, False), Sidecar(), judge(fp16=True))  # type: ignore[arg-type]
    assert found.blame == "compiler"
    assert "rounding evaluation passed" in found.sentence


@pytest.mark.parametrize(
    ("onnxruntime", "extra", "blame"),
    [
        ({"fp32": True}, {"evaluated": {}}, "compiler"),
        ({"fp32": True}, {}, None),
        ({"fp32": False}, {"evaluated": {}}, "graph"),
    ],
)
def test_bfloat16_is_judged_by_its_float32_graph(
    bundle: Bundle, onnxruntime: dict[str, bool | None], extra: dict[str, object], blame: str | None
) -> None:
    variant = replace(bundle.variant(HALF), precision="bf16", extra={"twin": FLOAT, **extra})
    found = three_way(bundle, variant, report(HALF, False), Sidecar(), judge(**onnxruntime))  # type: ignore[arg-type]
    assert found.blame == blame
    assert [view.name for view in found.views] == [views.ENGINE, views.FLOAT32]
    fine = three_way(bundle, variant, report(HALF, True), Sidecar(), judge())  # type: ignore[arg-type]
    assert [view.name for view in fine.views] == [views.ENGINE]


def test_without_the_float32_variant_it_stays_open(bundle: Bundle) -> None:
    variant = replace(bundle.variant(HALF), extra={})
    found = three_way(bundle, variant, report(HALF, False), Sidecar(), judge(fp16=False))  # type: ignore[arg-type]
    assert found.blame is None
    assert "no float32 variant" in found.sentence


@pytest.mark.parametrize("passed", [True, False])
def test_without_onnx_runtime(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, passed: bool) -> None:
    monkeypatch.setattr(views, "find_spec", lambda name: None)
    found = three_way(bundle, bundle.variant(FLOAT), report(FLOAT, passed), Sidecar(), judge())  # type: ignore[arg-type]
    assert found.blame is None
    assert [view.name for view in found.views] == ["engine"]
    assert ("pip install 'tofe-export[ort]'" in found.sentence) is not passed


def test_the_report_shows_the_views(bundle: Bundle) -> None:
    engine = report(FLOAT, False)
    found = three_way(bundle, bundle.variant(FLOAT), engine, Sidecar(), judge(fp32=True))  # type: ignore[arg-type]
    shown = replace(engine, three_way=found, notes=("kept tokens not seen",))
    fine = Check("preprocessing", True, "equal")
    whole = BundleReport("bundle", {"device": "TensorRT 0 on FAKE GPU"}, fine, (shown,))
    text = whole.text()
    assert text.startswith("TensorRT 0 on FAKE GPU\npreprocessing: ok")
    assert "engine: FAILED (1.0e-01)" in text
    assert "onnxruntime, the engine's graph: ok (1.0e-01)" in text
    assert "the engine does not: what TensorRT compiled is wrong [compiler]" in text
    assert f"kept tokens not seen: {FLOAT}" in text
    data = whole.to_json()["variants"][0]
    assert data["three_way"]["blame"] == "compiler"
    assert data["notes"] == ["kept tokens not seen"]


def test_a_graph_that_does_not_run_has_no_verdict() -> None:
    view = view_of("onnxruntime", report(FLOAT, False, runs=False))
    assert (view.passed, view.worst) == (None, None)
    assert str(view) == "onnxruntime: does not run"
