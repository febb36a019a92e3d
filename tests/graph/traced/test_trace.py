"""What a trace is: named after the modules, weights once in one file, sizes that binding fills in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tofe_export.errors import WriteError
from tofe_export.graph.trace import module_path

Traced = Callable[[str], Any]  # by the name of a recipe in conftest.py


@pytest.mark.parametrize(
    ("scopes", "path"),
    [
        (["model", "model.backbone.vit", "model.backbone.vit.blocks.3.attn.qkv"], "blocks.3.attn.qkv"),
        (["model.selectors.0.fc1"], "selectors.0.fc1"),
        (["model.backbone.vit.norm.weight"], "norm.weight"),
        ([], ""),
    ],
)
def test_paths_are_the_architectures_own(scopes: list[str], path: str) -> None:
    assert module_path(scopes) == path


def test_a_folder_that_cannot_be_written_to_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx_ir as ir

    from tofe_export.graph.trace import _externalise

    model = ir.from_proto(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])))
    with pytest.raises(WriteError, match=r"weights\.partial could not be written"):
        _externalise(model, tmp_path / "missing", "batch", "logits")


slow = pytest.mark.slow  # the first use of a recipe traces it


@slow
def test_nodes_carry_their_modules_path(traced: Traced) -> None:
    names = [node.name for node in traced("deit").template.model.graph.node]
    assert len(set(names)) == len(names)
    for expected in (
        "blocks.2.attn.qkv/MatMul",
        "blocks.3.attn.kv/MatMul",
        "selectors.2.fc1/MatMul",
        "approximators.1.fc2/MatMul",
    ):
        assert expected in names
    assert "blocks.0.norm1/LayerNormalization" in names
    assert sum(name.startswith("blocks.2.attn") for name in names) > 5
    assert not [name for name in names if name.startswith(("model", "backbone", "vit", "node_"))]
    outside = {name.partition("_")[0] for name in names if "/" not in name}
    assert outside == {"Pad", "Add", "Slice", "Shape", "Freeze", "Thaw", "Gather"}  # embedding, stages, head


@slow
@pytest.mark.parametrize("name", ["deit", "lvvit"])
def test_selectors_are_found_by_name(name: str, traced: Traced) -> None:
    """Precision holds them in float32 by name: everything between the patches and the scores."""
    graph = traced(name).template.model.graph
    makers = {output: node for node in graph.node for output in node.output}
    for stage, freeze in enumerate(node for node in graph.node if node.op_type == "Freeze"):
        found, todo = set(), [freeze.input[1]]
        while todo:
            node = makers.get(todo.pop())
            if node is None or node.op_type == "Slice":
                continue
            found.add(node.name)
            todo += [tensor for tensor in node.input if tensor != freeze.input[0]]
        assert len(found) > 10
        assert [name for name in found if not name.startswith(f"selectors.{stage}")] == []


@slow
@pytest.mark.parametrize(
    ("name", "freezes", "thaws", "restores"),
    [("deit", 3, 2, 0), ("registers", 3, 3, 1), ("no-reuse", 3, 3, 1), ("four-tied", 4, 3, 0)],
)
def test_stages(name: str, freezes: int, thaws: int, restores: int, traced: Traced) -> None:
    ops = Counter(n.op_type for n in traced(name).template.model.graph.node if n.domain == "tofe")
    assert ops == Counter({"Freeze": freezes, "Thaw": thaws, "Restore": restores})


@slow
@pytest.mark.parametrize("name", ["deit", "siglip"])
def test_the_exporters_chatter_stays_away_from_people(name: str, traced: Traced) -> None:
    assert traced(name).warnings == []


@slow
@pytest.mark.parametrize("name", ["deit", "siglip"])
def test_weights_lie_in_one_file_once(name: str, traced: Traced) -> None:
    case = traced(name)
    template = case.template
    data = (case.folder / template.weights_file).read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (template.weights_bytes, template.weights_sha256)
    assert template.weights_file == f"weights-{template.weights_sha256[:12]}.bin"
    assert [path.name for path in case.folder.glob("weights*")] == [template.weights_file]
    parameters = sum(p.numel() * 4 for p in case.model.parameters())
    assert 0.9 * parameters < len(data) < 1.1 * parameters
    large = [t for t in template.model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    places = [{e.key: e.value for e in t.external_data} for t in large]
    assert {place["location"] for place in places} == {template.weights_file}
    assert all(int(place["offset"]) % 64 == 0 for place in places)
    spans = sorted((int(place["offset"]), int(place["length"])) for place in places)
    assert all(start + length <= after for (start, length), (after, _) in pairwise(spans))


@slow
def test_weights_are_the_models(traced: Traced) -> None:
    case = traced("deit")
    tensors = {t.name: t for t in case.template.model.graph.initializer}
    place = {e.key: e.value for e in tensors["blocks.1.attn.qkv/MatMul:1"].external_data}
    data = (case.folder / place["location"]).read_bytes()
    start, length = int(place["offset"]), int(place["length"])
    got = np.frombuffer(data[start : start + length], np.float32).reshape(192, 576)
    weight = case.model.backbone.vit.blocks[1].attn.qkv.weight.detach().numpy()
    np.testing.assert_array_equal(got, weight.T)


@slow
@pytest.mark.parametrize("name", ["deit", "registers", "siglip", "lvvit", "no-reuse", "four-tied"])
def test_nothing_computes_shapes_once_bound(name: str, traced: Traced) -> None:
    ops = {node.op_type for node in traced(name).bind("scatter", None).graph.node}
    assert not ops & {"Shape", "Expand", "Range", "ConstantOfShape", "Unsqueeze", "Where"}


@slow
def test_attention_is_written_the_way_tensorrt_fuses(traced: Traced) -> None:
    nodes = traced("deit").bind("scatter").graph.node
    inside = Counter(n.op_type for n in nodes if n.name.startswith("blocks.0.attn"))
    assert inside["Softmax"] == 1
    assert inside["Mul"] == 1  # the scale, on Q alone
    everywhere = Counter(n.op_type for n in nodes)
    assert everywhere["LayerNormalization"] == 4 * 2 + 1 + 3  # blocks, final norm, selectors
    assert "Gelu" not in everywhere
