"""The second weights file: half copies of all external weights, found by their place in the first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tofe_export.files import sha256_file
from tofe_export.graph.typing.half import HALVES
from tofe_export.graph.typing.weights import files_of, largest_constants, load, write_half_weights

Array = npt.NDArray[Any]
Build = Callable[..., onnx.ModelProto]


@pytest.fixture
def model(build: Build, tmp_path: Path) -> onnx.ModelProto:
    """Two external weights, one of them beyond float16, and a small one inside the graph."""
    random = np.random.RandomState(0)
    a, b = (random.standard_normal((20, 20)).astype(np.float32) for _ in range(2))
    b[3, 3] = 1e5
    rows: list[Any] = [
        ("0", "MatMul", ["images", "a"], ["x"], {}),
        ("1", "MatMul", ["x", "b"], ["y"], {}),
        ("2", "Mul", ["y", "c"], ["logits"], {}),
    ]
    c = np.array([0.1], np.float32)
    made = build(rows, {"a": a, "b": b, "c": c}, {"images": [1, 20]}, ["logits"])
    (tmp_path / "weights.bin").write_bytes(b"\0" * 64 + a.tobytes() + b.tobytes())
    for tensor, offset in zip(made.graph.initializer[:2], (64, 64 + 1600), strict=True):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", offset), ("length", 1600)):
            tensor.external_data.add(key=key, value=str(value))
    return made


@pytest.mark.parametrize("precision", HALVES)
def test_copies_are_rounded_weights(precision: str, model: onnx.ModelProto, tmp_path: Path) -> None:
    half = HALVES[precision]
    written = write_half_weights(model, tmp_path, half)
    path = tmp_path / written.file
    assert written.file == f"weights-{written.sha256[:12]}.bin"
    assert (sha256_file(path), path.stat().st_size) == (written.sha256, written.bytes)
    a, b, _c = model.graph.initializer
    copy = written.tensor("copy", a)
    assert copy is not None
    assert (copy.name, copy.data_type, list(copy.dims)) == ("copy", half.onnx_type, [20, 20])
    copy.data_type = onnx.TensorProto.UINT16
    expected = half.round(np.asarray(load(a, tmp_path)))
    np.testing.assert_array_equal(half.decode(np.asarray(load(copy, tmp_path))), expected)
    assert (written.tensor("copy", b) is None) == (precision == "fp16")
    assert files_of(model) == {"weights.bin"}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["weights.bin", written.file])
    assert write_half_weights(model, tmp_path, half) == written


def test_largest_constants(model: onnx.ModelProto, tmp_path: Path) -> None:
    found = largest_constants(model, tmp_path)
    assert found["b"] == 1e5
    assert found["c"] == np.float32(0.1)
    assert found["a"] == np.abs(load(model.graph.initializer[0], tmp_path)).max()
