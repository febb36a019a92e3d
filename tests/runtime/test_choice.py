"""Which backend runs, where the user leaves it open (a FAKE TensorRT)."""

from __future__ import annotations

import sys
from pathlib import Path

import fake_tensorrt
import pytest
import tiny_bundle
from click.testing import CliRunner

from tofe_export.bundle import Bundle
from tofe_export.cli import main
from tofe_export.errors import MissingBackend, UsageError
from tofe_export.runtime.choice import choose

REDUCED, DENSE = "0.01g-scatter-fp32-b1", "dense-fp32-b1"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(tiny_bundle.write_bundle(tmp_path / "bundle", ("fp32",)))


@pytest.fixture
def one_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    """An engine of the reduced variant only; the fake stays installed."""
    fake_tensorrt.install(monkeypatch, "10.3")
    assert CliRunner().invoke(main, ["trt", str(bundle.path), "--variant", REDUCED]).exit_code == 0
    return bundle


def test_without_engines_tensorrt_is_not_even_looked_for(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    choice = choose(bundle, bundle.manifest.variants)
    assert (choice.backend, choice.provider, choice.remark) == ("onnxruntime", "cpu", None)
    assert choice.variants == bundle.manifest.variants


def test_engines_are_chosen_and_the_rest_is_named(one_engine: Bundle) -> None:
    choice = choose(one_engine, one_engine.manifest.variants)
    assert (choice.backend, choice.provider) == ("tensorrt", "tensorrt")
    assert [variant.name for variant in choice.variants] == [REDUCED]
    assert choice.left_out == (DENSE,)


def test_a_named_variant_is_never_left_out(one_engine: Bundle) -> None:
    both = [one_engine.variant(REDUCED), one_engine.variant(DENSE)]
    with pytest.raises(MissingBackend, match=f"no engine of {DENSE}"):
        choose(one_engine, both, named=True)
    alone = choose(one_engine, both[1:], named=True)
    assert alone.backend == "onnxruntime"
    assert f"no engine of {DENSE}" in (alone.remark or "")


def test_engines_that_cannot_run_here_are_a_remark(
    one_engine: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    choice = choose(one_engine, one_engine.manifest.variants)
    assert choice.backend == "onnxruntime"
    assert "cannot run here, so ONNX Runtime runs its graphs: TensorRT is not installed" in (
        choice.remark or ""
    )
    with pytest.raises(MissingBackend, match="TensorRT is not installed"):
        choose(one_engine, one_engine.manifest.variants, "tensorrt")


def test_a_provider_means_onnx_runtime(one_engine: Bundle) -> None:
    choice = choose(one_engine, one_engine.manifest.variants, provider="cuda")
    assert (choice.backend, choice.provider) == ("onnxruntime", "cuda")
    with pytest.raises(UsageError, match="--provider is ONNX Runtime's"):
        choose(one_engine, one_engine.manifest.variants, "tensorrt", "cpu")
