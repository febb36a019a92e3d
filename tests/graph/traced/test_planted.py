"""Activations beyond half precision: found before, found by overflow, or the export fails."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tofe_export.bundle import Bundle
from tofe_export.errors import PrecisionError, UsageError
from tofe_export.graph.request import Request
from tofe_export.graph.typing import settle
from tofe_export.graph.typing.magnitudes import UNMEASURED
from tofe_export.graph.typing.settle import Evaluation, Settler
from tofe_export.model.tofe import ToFe
from tofe_export.verify.limits import Limits

Free = Any
PLANTED = "blocks.1.mlp"

pytestmark = pytest.mark.slow  # needs traces


def plant(model: ToFe) -> ToFe:
    """One channel of one MLP is 1e5 times larger, and taken back by the next layer."""
    changed = deepcopy(model)
    mlp: Any = changed.get_submodule(f"backbone.vit.{PLANTED}")
    with torch.no_grad():
        mlp.fc1.weight[5] *= 1e5
        mlp.fc2.weight[:, 5] /= 1e5
    return changed


@pytest.fixture(scope="module")
def planted(traced: Free, exported: Free, pictures: Free, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of the model with a planted channel."""
    case = traced("deit")
    wanted = Request(keep=case.keep, precisions=("fp16", "bf16"))
    folder = tmp_path_factory.mktemp("planted") / "bundle"
    bundle: Bundle = exported(case, folder, pictures(), wanted, plant(case.model))
    return bundle


def test_exactly_what_is_too_large_stays_float32(planted: Bundle) -> None:
    usual = ("selector", "layer norm", "between float32 nodes")
    for variant in planted.manifest.variants:
        held = variant.extra["float32_nodes"]
        large = [name for name, why in held.items() if why.startswith("magnitude")]
        expected = ["fc1/MatMul", "fc1/Add", "act/Div", "act/Erf", "act/Mul_3", "act/Mul_4", "fc2/MatMul"]
        if variant.precision == "bf16":
            assert large == []
            continue
        assert large == [f"{PLANTED}.{name}" for name in expected]
        between = {name for name, why in held.items() if why == usual[-1] and name.startswith("blocks.")}
        assert between == {f"{PLANTED}.act/Add"}
        assert set(held.values()) - {held[name] for name in large} <= set(usual)


def test_without_the_magnitude_check_the_evaluator_overflows(
    traced: Free, exported: Free, pictures: Free, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = Settler.evaluate, list[Evaluation]()

    def evaluate(self: Settler, *parts: Free) -> Evaluation:
        seen.append(real(self, *parts))
        return seen[-1]

    monkeypatch.setattr(Settler, "measure", lambda *_: UNMEASURED)
    monkeypatch.setattr(Settler, "evaluate", evaluate)
    case = traced("deit")
    wanted = Request(keep=case.keep, precisions=("fp16",))
    bundle: Bundle = exported(case, tmp_path / "bundle", pictures(), wanted, plant(case.model))
    first = seen[0]
    assert first.overflow is not None
    assert first.overflow.node == f"{PLANTED}.fc1/MatMul"
    assert any(failure.startswith("finite: ") for failure in first.failures)
    for (
        variant
    ) in bundle.manifest.variants:  # the overflow shows which nodes to hold, and the manifest says so
        figures = variant.extra["evaluated"]
        assert figures["overflow"] is None
        assert f"{PLANTED}.fc1/MatMul (MatMul) gives" in figures["added"][0]
        assert f"{PLANTED}.fc1/MatMul" in variant.extra["float32_nodes"]


def test_an_answer_that_is_too_far_off_holds_the_stream_or_fails(
    traced: Free, pictures: Free, exported: Free, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = traced("deit")
    wanted = Request(keep=case.keep, precisions=("fp32", "fp16"))
    monkeypatch.setattr(settle, "limits_for", lambda *_: Limits(1e-9, 1e-9))
    message = r"-scatter-fp16-b1: float16 does not give .* with residual stream in float32: scores: largest"
    with pytest.raises(PrecisionError, match=message):
        exported(case, tmp_path / "bundle", pictures(), wanted)
    assert list(tmp_path.iterdir()) == []


def test_what_is_asked_for_stays_float32(
    traced: Free, pictures: Free, exported: Free, tmp_path: Path
) -> None:
    case = traced("deit")
    wanted = Request(keep=case.keep, precisions=("fp16",), float32=("softmax", "blocks.3.mlp"))
    bundle = exported(case, tmp_path / "bundle", pictures(), wanted)
    for variant in bundle.manifest.variants:
        held = variant.extra["float32_nodes"]
        assert sum(why == "softmax" for why in held.values()) == 4
        assert sum(why == "asked for" for why in held.values()) >= 9
        assert bundle.manifest.files()  # a bundle without float32 variants opens, too
    assert Bundle.open(bundle.path).default_variant().precision == "fp16"
    with pytest.raises(UsageError, match=r"--float32 blocks\.77: expected"):
        exported(case, tmp_path / "other", pictures(), replace(wanted, float32=("blocks.77",)))


def test_a_bundle_is_extended_by_a_precision(
    traced: Free, pictures: Free, exported: Free, tmp_path: Path
) -> None:
    case, path = traced("deit"), tmp_path / "bundle"
    plain = exported(case, path, pictures(), Request(keep=case.keep))
    half = exported(case, path, None, Request(keep=case.keep, precisions=("fp16",)))
    more = exported(case, path, None, Request(keep=(5, 4, 2), precisions=("fp16", "bf16")))
    names = [variant.name for variant in more.manifest.variants]
    assert names[:2] == [variant.name for variant in plain.manifest.variants]
    assert sum("fp16" in name for name in names) == 3
    assert {v.extra["twin"] for v in half.manifest.variants if v.precision == "fp16"} == set(names[:2])
    assert [w.file for w in more.manifest.weights][:2] == [w.file for w in half.manifest.weights]
    assert more.manifest.variants[0].sha256 == plain.manifest.variants[0].sha256
    more.check(more.manifest.variants)
