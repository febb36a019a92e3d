"""Reading the nodes of an ONNX file without onnx: the same as onnx says, and clear errors."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import tiny_bundle

from tofe_export.bench.graph_file import read_nodes
from tofe_export.errors import InputError


def test_equals_onnx(tmp_path: Path) -> None:
    model = tiny_bundle.make_graph(dense=False, half=False, probe=True)
    path = tmp_path / "graph.onnx"
    path.write_bytes(model.SerializeToString())
    found = [(n.name, n.operator, n.inputs, n.outputs) for n in read_nodes(path)]
    expected = onnx.load(path, load_external_data=False).graph.node
    assert found == [(n.name, n.op_type, tuple(n.input), tuple(n.output)) for n in expected]
    assert any(name == "selectors.0/TopK" for name, *_ in found)


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com", b"\xff" * 40, b"\x3a\x7f\x0a"])
def test_refuses_other_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError, match="expected an ONNX model, found n"):
        read_nodes(path)


def test_refuses_a_truncated_file(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    path.write_bytes(tiny_bundle.make_graph(dense=True, half=False, probe=False).SerializeToString()[:-30])
    with pytest.raises(InputError, match="the file ends early"):
        read_nodes(path)


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an ONNX model"):
        read_nodes(tmp_path / "none.onnx")
