"""The evaluator: float32 inside operators, half between them, and the node that made the first infinity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tofe_export.errors import MissingExtra
from tofe_export.graph.typing import kernels as module
from tofe_export.graph.typing.evaluator import Evaluator
from tofe_export.graph.typing.half import HALVES
from tofe_export.graph.typing.islands import required
from tofe_export.graph.typing.kernels import Kernels
from tofe_export.graph.typing.magnitudes import UNMEASURED
from tofe_export.graph.typing.typed import type_graph

Array = npt.NDArray[Any]
Build = Callable[..., onnx.ModelProto]
Infer = Callable[..., dict[str, Array]]


@pytest.fixture(scope="module")
def kernels() -> Kernels:
    return Kernels(17)


def typed(model: onnx.ModelProto, precision: str, graph_of: Any) -> onnx.ModelProto:
    half = HALVES[precision]
    return type_graph(model, half, required(graph_of(model), half, UNMEASURED), None, {})[0]


def test_float32_is_not_rounded(
    select: Build, images: Array, infer: Infer, kernels: Kernels, tmp_path: Path
) -> None:
    evaluator = Evaluator(select(), tmp_path, kernels)
    found = evaluator.run({"images": images}, measure=True)["logits"]
    np.testing.assert_allclose(found, infer(select(), {"images": images})["logits"], atol=1e-6)
    assert evaluator.overflow is None
    assert {"x", "n", "scores", "best", "u", "logits"} <= evaluator.largest.keys()
    assert "ids" not in evaluator.largest
    assert evaluator.largest["logits"] == np.abs(found).max()


@pytest.mark.parametrize("precision", HALVES)
def test_every_half_tensor_is_rounded_after_its_node(
    precision: str, build: Build, graph_of: Any, kernels: Kernels, tmp_path: Path
) -> None:
    random = np.random.RandomState(0)
    w, x = (random.standard_normal((16, 16)).astype(np.float32) for _ in range(2))
    rows: list[Any] = [("a", "MatMul", ["images", "w"], ["m"], {}), ("b", "Mul", ["m", "w"], ["logits"], {})]
    model = build(rows, {"w": w}, {"images": [16, 16]}, ["logits"])
    found = Evaluator(typed(model, precision, graph_of), tmp_path, kernels).run({"images": x})["logits"]
    r = HALVES[precision].round
    product = r(r(x).astype(np.float64) @ r(w).astype(np.float64))
    np.testing.assert_allclose(found, r(product * r(w)), rtol=2.0**-7, atol=2.0**-8)
    assert np.mean(found == r(product * r(w))) > 0.99  # but for sums at the edge of two numbers
    assert not np.array_equal(found, (x @ w) * w)


def test_the_first_overflow_is_named(build: Build, graph_of: Any, kernels: Kernels, tmp_path: Path) -> None:
    rows: list[Any] = [
        ("fine", "MatMul", ["images", "w"], ["a"], {}),
        ("guilty", "MatMul", ["a", "w"], ["b"], {}),
        ("follows", "MatMul", ["b", "w"], ["logits"], {}),
    ]
    model = build(rows, {"w": np.array([[300.0]], np.float32)}, {"images": [2, 1]}, ["logits"])
    x = np.array([[1.0], [2.0]], np.float32)
    evaluator = Evaluator(typed(model, "fp16", graph_of), tmp_path, kernels)
    assert np.isinf(evaluator.run({"images": x})["logits"]).all()
    assert evaluator.overflow is not None
    assert (evaluator.overflow.node, evaluator.overflow.tensor) == ("guilty", "b")
    assert evaluator.overflow.magnitude == 180_000.0
    assert "guilty (MatMul) gives 1.8e+05" in str(evaluator.overflow)
    wide = Evaluator(typed(model, "bf16", graph_of), tmp_path, kernels)
    np.testing.assert_allclose(wide.run({"images": x})["logits"], 300.0**3 * x, rtol=0.02)
    assert wide.overflow is None


def test_not_a_number_is_an_overflow(build: Build, kernels: Kernels, tmp_path: Path) -> None:
    model = build([("root", "Sqrt", ["images"], ["logits"], {})], {}, {"images": [1]}, ["logits"])
    evaluator = Evaluator(model, tmp_path, kernels)
    assert np.isnan(evaluator.run({"images": np.array([-1.0], np.float32)})["logits"]).all()
    assert evaluator.overflow is not None
    assert evaluator.overflow.node == "root"


def test_nodes_of_a_kind_share_a_session(select: Build, images: Array, tmp_path: Path) -> None:
    shared = Kernels(17)
    Evaluator(select(), tmp_path, shared).run({"images": images})
    count = len(shared._sessions)
    assert count < len(select().graph.node)
    Evaluator(select(), tmp_path, shared).run({"images": images})
    assert len(shared._sessions) == count


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'tofe-export\[ort\]'"):
        Kernels(17)
