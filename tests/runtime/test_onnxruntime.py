"""ONNX Runtime as a Session; a provider that does not work is an error, never a fallback."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, InputError, MissingBackend, MissingExtra, UsageError
from tofe_export.files import sha256_file
from tofe_export.runtime.onnxruntime import PROVIDERS, OnnxRuntimeSession
from tofe_export.runtime.session import Session

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def save_graph(path: Path, batch: int | str = "batch") -> Path:
    """logits = ReduceMean(images) + weight, and a boolean constant's echo; the weight is external data."""
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = onnx.numpy_helper.from_array(np.full((256,), 2.0, np.float32), "weight")
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "axis"], ["column"]),
        helper.make_node("Add", ["column", "weight"], ["logits"]),
        helper.make_node("Not", ["flag"], ["unflag"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("images", kinds.FLOAT, [batch, 3, 4, 4]),
            helper.make_tensor_value_info("flag", kinds.BOOL, [1]),
        ],
        [
            helper.make_tensor_value_info("logits", kinds.FLOAT, [batch, 256]),
            helper.make_tensor_value_info("unflag", kinds.BOOL, [1]),
        ],
        [weight, onnx.numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=512)
    return path


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    return save_graph(tmp_path / "toy.onnx")


def feeds(count: int = 2) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    return {"images": np.ones((count, 3, 4, 4), np.float32), "flag": np.array([True])}


def test_runs_a_graph_with_external_weights(graph: Path) -> None:
    with OnnxRuntimeSession(graph) as session:
        assert session.provider == "cpu"
        assert [str(info) for info in session.inputs.values()] == [
            "images float32 (batch, 3, 4, 4)",
            "flag bool (1)",
        ]
        results = session.infer(feeds())
    assert list(results) == ["logits", "unflag"]
    np.testing.assert_array_equal(results["logits"], np.full((2, 256), 3.0, np.float32))
    assert not results["unflag"][0]


def test_wrong_arrays_never_reach_the_runtime(graph: Path) -> None:
    session = OnnxRuntimeSession(graph)
    with pytest.raises(InputError, match=r"found images float32 \(2, 4, 4, 3\)"):
        session.infer(feeds() | {"images": np.ones((2, 4, 4, 3), np.float32)})


def test_a_closed_session_says_so(graph: Path) -> None:
    session = OnnxRuntimeSession(graph)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.infer(feeds())


def refusal(graph: Path, provider: str) -> MissingBackend | None:
    """The error that asking for the provider raises; None where it works and is really used."""
    try:
        session = OnnxRuntimeSession(graph, provider)
    except MissingBackend as error:
        return error
    assert session.provider == provider
    return None


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_work_is_an_error(
    graph: Path, provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    if (error := refusal(graph, provider)) is None:
        pytest.skip(f"{provider} works on this machine")
    assert error.exit_code == 5
    assert f"expected ONNX Runtime to run on {provider}, which does not work here" in str(error)
    assert capfd.readouterr() == ("", "")


class Pretender:
    """Stands in for an ONNX Runtime that falls back to the CPU without an error."""

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_silent_fallback_is_an_error(graph: Path, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: Pretender())
    with pytest.raises(MissingBackend, match=r"does not work here: .+"):
        OnnxRuntimeSession(graph, provider)


def test_a_build_without_the_provider_is_an_error(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingBackend, match="does not work here"):
        OnnxRuntimeSession(graph, "cuda")


def test_an_unknown_provider(graph: Path) -> None:
    with pytest.raises(UsageError, match="out of cpu, cuda, tensorrt, found 'npu'"):
        OnnxRuntimeSession(graph, "npu")


def test_a_missing_package_says_what_to_install(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(
        name: str,
        variables: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None,
        names: tuple[str, ...] = (),
        level: int = 0,
    ) -> object:
        if name == "onnxruntime":
            raise ImportError(name)
        return real(name, variables, local, names, level)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtra, match=r"pip install 'tofe-export\[ort\]'"):
        OnnxRuntimeSession(graph)


def test_damaged_graphs_and_weights(graph: Path) -> None:
    weights = graph.with_suffix(".bin")
    data = weights.read_bytes()
    weights.write_bytes(data[:-4])
    with pytest.raises(BundleError, match="cannot load") as caught:
        OnnxRuntimeSession(graph)
    assert caught.value.exit_code == 4
    weights.unlink()
    with pytest.raises(BundleError, match="cannot load"):
        OnnxRuntimeSession(graph)
    graph.write_bytes(b"no graph")
    with pytest.raises(BundleError, match="cannot load"):
        OnnxRuntimeSession(graph)
    graph.unlink()
    with pytest.raises(BundleError, match="cannot load"):
        OnnxRuntimeSession(graph)


@pytest.mark.parametrize("probe", [False, True])
def test_session_open_loads_a_variant(bundle: Bundle, probe: bool) -> None:
    variant = bundle.variant("2.00g-scatter-fp32-b1")
    assert variant.probe is not None
    save_graph(bundle.file(variant.file))
    save_graph(bundle.file(variant.probe.file), batch=1)
    hashed = replace(
        variant,
        sha256=sha256_file(bundle.file(variant.file)),
        probe=replace(variant.probe, sha256=sha256_file(bundle.file(variant.probe.file))),
    )
    manifest = replace(bundle.manifest, variants=(hashed,))
    (bundle.path / "manifest.json").write_text(json.dumps(manifest.to_json()), encoding="utf-8")
    with Session.open(bundle.path, probe=probe) as session:
        assert session.inputs["images"].shape[0] == (1 if probe else "batch")
        assert session.infer(feeds(1))["logits"].shape == (1, 256)


def test_int8_products_are_exact_on_every_processor(tmp_path: Path) -> None:
    """Without VNNI, ONNX Runtime's default adds pairs of large products in 16 bits, which saturates."""
    helper, kinds, arrays = onnx.helper, onnx.TensorProto, onnx.numpy_helper
    random = np.random.default_rng(0)
    weight = random.integers(-127, 128, (64, 16)).astype(np.int8)
    constants = {
        "step": np.float32(0.01),
        "zero": np.int8(0),
        "weight": weight,
        "steps": np.full(16, 0.01, np.float32),
        "zeros": np.zeros(16, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["left"]),
        helper.make_node("DequantizeLinear", ["weight", "steps", "zeros"], ["right"], axis=1),
        helper.make_node("MatMul", ["left", "right"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", kinds.FLOAT, [8, 64])],
        [helper.make_tensor_value_info("y", kinds.FLOAT, [8, 16])],
        [arrays.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    path = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    x = random.uniform(-1.27, 1.27, (8, 64)).astype(np.float32)
    exact = np.round(x / 0.01) @ weight.astype(np.float64) * 1e-4
    with OnnxRuntimeSession(path) as session:
        np.testing.assert_allclose(session.infer({"x": x})["y"], exact, rtol=1e-4, atol=1e-4)
