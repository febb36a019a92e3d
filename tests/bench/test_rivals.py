"""Rivals found, looked at and fed; measuring them is `tests/cli/test_bench_rivals.py`'s."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tofe_export.bench.rivals import Rival, feeds_for, files_of, rival_of
from tofe_export.bench.sides import How
from tofe_export.bundle import Bundle
from tofe_export.errors import InputError, UsageError, VariantError
from tofe_export.runtime.session import TensorInfo

HOW = How("onnxruntime", "cpu", threads=1)
MakeRival = Callable[..., Path]


@pytest.fixture
def make_rival(tmp_path: Path) -> MakeRival:
    """A graph that copies its inputs."""

    def make(*shapes: list[Any], dtype: int = TensorProto.FLOAT, name: str = "rival.onnx") -> Path:
        inputs, outputs = (
            [helper.make_tensor_value_info(f"{end}{i}", dtype, shape) for i, shape in enumerate(shapes)]
            for end in ("pixels", "out")
        )
        nodes = [helper.make_node("Identity", [f"pixels{i}"], [f"out{i}"]) for i in range(len(shapes))]
        graph = helper.make_graph(nodes, "rival", inputs, outputs)
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
            tmp_path / name,
        )
        return tmp_path / name

    return make


def test_files_and_folders(make_rival: MakeRival, tmp_path: Path) -> None:
    b, a = (make_rival([1, 3, 8, 8], name=f"{name}.onnx") for name in "ba")
    assert files_of([tmp_path]) == [a, b]
    assert files_of([b, tmp_path]) == [b, a]
    with pytest.raises(InputError, match=r"there is no file .*c\.onnx"):
        files_of([tmp_path / "c.onnx"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"expected ONNX files in .*empty, found none"):
        files_of([tmp_path / "empty"])


def test_a_rival_is_measured_against_the_dense_variant_of_its_batch(
    bundle: Bundle, make_rival: MakeRival
) -> None:
    rival = rival_of(bundle, make_rival([1, 3, 6, 8]), HOW)
    assert (rival.against.name, rival.batch, rival.image_size) == ("dense-fp32-b1", 1, (6, 8))
    assert rival.input.name == "pixels0"
    other = "1.50g-scatter-fp32-b4"
    assert rival_of(bundle, make_rival([4, 3, 8, 8]), HOW, other).against.name == other


def test_a_batch_without_a_partner_is_refused(bundle: Bundle, make_rival: MakeRival) -> None:
    path = make_rival([4, 3, 8, 8])
    with pytest.raises(UsageError, match=r"takes batch 4; .*found dense-fp32-b1.*--batch 4"):
        rival_of(bundle, path, HOW)
    with pytest.raises(UsageError, match="takes batch 4, and dense-fp32-b1 takes 1"):
        rival_of(bundle, path, HOW, "dense-fp32-b1")
    with pytest.raises(VariantError):
        rival_of(bundle, path, HOW, "nobody")


@pytest.mark.parametrize(
    ("shapes", "dtype", "complaint"),
    [
        ([["n", 3, 8, 8]], TensorProto.FLOAT, "expected fixed sizes"),
        ([[1, 3, "h", 8]], TensorProto.FLOAT, "expected fixed sizes"),
        ([[1, 3, 8, 8], [1, 3, 8, 8]], TensorProto.FLOAT, r"expected one input .* pixels1"),
        ([[1, 3, 8]], TensorProto.FLOAT, "expected one input"),
        ([[1, 8, 8, 3]], TensorProto.FLOAT, "expected one input"),
        ([[1, 3, 8, 8]], TensorProto.UINT8, r"expected one input of float32 .* uint8"),
    ],
)
def test_other_graphs_are_refused(
    bundle: Bundle, make_rival: MakeRival, shapes: list[Any], dtype: int, complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        rival_of(bundle, make_rival(*shapes, dtype=dtype), HOW)


def test_what_is_no_graph_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("not a graph")
    with pytest.raises(InputError, match=r"--rivals: .*text\.onnx"):
        rival_of(bundle, path, HOW)


def _rival(bundle: Bundle, *shape: int) -> Rival:
    info = TensorInfo("pixels", np.dtype("float32"), shape)
    return Rival(Path("r.onnx"), "0", info, bundle.variant("dense-fp32-b1"))


def test_feeds_are_the_bundles_pictures_where_they_fit(bundle: Bundle) -> None:
    images = np.arange(3 * 3 * 8 * 8, dtype=np.float32).reshape(3, 3, 8, 8)
    single = feeds_for(_rival(bundle, 1, 3, 8, 8), images)
    assert [feed["pixels"].shape for feed in single] == [(1, 3, 8, 8)] * 3
    assert np.array_equal(single[2]["pixels"][0], images[2])
    (wide,) = feeds_for(_rival(bundle, 4, 3, 8, 8), images)
    assert np.array_equal(wide["pixels"][3], images[0])  # they repeat


def test_other_resolutions_are_fed_the_same_numbers_every_time(bundle: Bundle) -> None:
    images = np.zeros((3, 3, 8, 8), np.float32)
    first, second = (feeds_for(_rival(bundle, 2, 3, 6, 6), images) for _ in range(2))
    assert len(first) == 4
    assert first[0]["pixels"].dtype == np.float32
    assert all(np.array_equal(a["pixels"], b["pixels"]) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0]["pixels"], first[1]["pixels"])
