"""The INT8 weights file: its content depends on the weights alone, and reads back as what was quantised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tofe_export.errors import WriteError
from tofe_export.files import sha256_file
from tofe_export.graph.quantizing.quantized import Plan, plan_for
from tofe_export.graph.quantizing.scales import quantize
from tofe_export.graph.quantizing.weights import read_tensor, write_int8_weights

Free = Any


@pytest.fixture
def plan(small: Free, tmp_path: Path) -> Plan:
    return plan_for(small(flat=True, transposed=True), tmp_path)


def weight(model: onnx.ModelProto, name: str) -> Any:
    return next(onnx.numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def test_weights_read_back(small: Free, plan: Plan, tmp_path: Path) -> None:
    made = write_int8_weights(plan.weights, tmp_path)
    expected, scales = quantize(weight(small(flat=True, transposed=True), "mlp.fc1.weight").T, axis=1)
    digest = plan.digests["mlp.fc1/Gemm"]
    for half in (False, True):
        integers, sizes, zeros = (read_tensor(t, tmp_path) for t in made.tensors(digest, "w", half=half))
        assert np.array_equal(integers, expected)
        assert sizes.dtype == (np.float16 if half else np.float32)
        assert np.array_equal(sizes.astype(np.float32), scales)
        assert zeros.dtype == np.int8
        assert zeros.shape == scales.shape
        assert not zeros.any()


def test_the_name_is_the_content(plan: Plan, tmp_path: Path) -> None:
    made = write_int8_weights(plan.weights, tmp_path)
    path = tmp_path / made.file
    assert made.sha256 == sha256_file(path)
    assert made.file == f"weights-{made.sha256[:12]}.bin"
    assert made.bytes == path.stat().st_size
    assert [p.name for p in tmp_path.iterdir()] == [made.file]


def test_neither_order_nor_layout_matters(small: Free, plan: Plan, tmp_path: Path) -> None:
    reverse = dict(reversed(list(plan.weights.items())))
    assert write_int8_weights(reverse, tmp_path) == write_int8_weights(plan.weights, tmp_path)
    straight, turned = small(flat=True), small(flat=True)
    for node in turned.graph.node:
        if node.name == "mlp.fc1/Gemm":
            next(a for a in node.attribute if a.name == "transB").i = 1
    for tensor in turned.graph.initializer:
        if tensor.name == "mlp.fc1.weight":
            values = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor).T)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    first, second = plan_for(straight, tmp_path), plan_for(turned, tmp_path)
    assert first.digests == second.digests


def test_other_weights_make_another_file(small: Free, plan: Plan, tmp_path: Path) -> None:
    model = small(flat=True, transposed=True)
    tensor = next(t for t in model.graph.initializer if t.name == "mlp.fc1.weight")
    tensor.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(tensor), tensor.name))
    other = plan_for(model, tmp_path)
    assert write_int8_weights(other.weights, tmp_path).file != write_int8_weights(plan.weights, tmp_path).file


def test_a_folder_that_is_not_there(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(WriteError):
        write_int8_weights(plan.weights, tmp_path / "nowhere")
