"""A static fp32 graph with the operators of exports is clean everywhere, a dynamic one but on 10.3."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

from tofe_export.errors import InputError, UsageError
from tofe_export.lint.findings import Finding
from tofe_export.lint.lint import lint_model, lint_targets
from tofe_export.lint.targets import TARGETS

Lint = Callable[..., list[Finding]]
OPERATORS = (
    *(
        "Conv",
        "Reshape",
        "Transpose",
        "Pad",
        "Add",
        "LayerNormalization",
        "MatMul",
        "Split",
        "Mul",
        "Softmax",
    ),
    *("Div", "Erf", "TopK", "Gather", "Concat", "ScatterND", "Slice", "ReduceMean", "ReduceMax", "GatherND"),
    "ScatterElements",
)


def test_the_graph_has_what_exports_have(tofe: ModelProto) -> None:
    assert set(OPERATORS) <= set(Counter(node.op_type for node in tofe.graph.node))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_static_graph_is_clean(tofe: ModelProto, target: str, lint: Lint) -> None:
    assert lint(tofe, target) == []


def test_a_dynamic_batch_is_clean_but_on_10_3(tofe: ModelProto) -> None:
    tofe.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    found = lint_targets(tofe, TARGETS)
    assert {t.version for t, findings in found.items() if any(f.severity == "error" for f in findings)} == {
        "10.3"
    }


def test_external_weights_need_not_be_there(tofe: ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(tofe, path, save_as_external_data=True, location="weights.bin", size_threshold=512)
    (tmp_path / "weights.bin").unlink()
    assert lint_model(path, "trt-8.6") == []


def test_the_model_is_left_as_it_was(tofe: ModelProto) -> None:
    before = tofe.SerializeToString()
    lint_model(tofe, "trt-10.3")
    assert tofe.SerializeToString() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"hello, this is no graph", "truncated or of another kind"),
        (b"PK\x03\x04 a checkpoint", "zip archive"),
        (b"ftrt\0\0\0\0", "TensorRT engine"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ],
)
def test_what_is_no_onnx_file_is_named(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        lint_model(path, "trt-8.6")


def test_a_truncated_file_is_refused(tofe: ModelProto, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tofe.SerializeToString()[:-100])
    with pytest.raises(InputError, match="truncated"):
        lint_model(path, "trt-8.6")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        lint_model(tmp_path / "none.onnx", "trt-8.6")


def test_an_unknown_target_is_refused(tofe: ModelProto) -> None:
    with pytest.raises(UsageError, match=r"trt-9\.9"):
        lint_model(tofe, "trt-9.9")


def test_a_file_beyond_protobuf_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(InputError, match="external data"):
        lint_model(path, "trt-8.6")
