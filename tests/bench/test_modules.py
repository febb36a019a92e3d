"""Which module a node belongs to: by name, by its beginning, by its tensors, by its neighbours."""

from __future__ import annotations

import pytest

from tofe_export.bench.graph_file import Node
from tofe_export.bench.modules import OTHER, Modules, module_of

GRAPH = [
    Node("patch_embed/Conv", "Conv", ("images", "w"), ("p",)),
    Node("Add", "Add", ("p", "positions"), ("x",)),
    Node("blocks.0.norm1/LayerNormalization", "LayerNormalization", ("x", "g"), ("n",)),
    Node("blocks.0.mlp/Erf", "Erf", ("n",), ("e",)),
    Node("blocks.0/Add", "Add", ("x", "e"), ("y",)),
    Node("Slice", "Slice", ("y",), ("patches",)),
    Node("patches:rows", "Reshape", ("patches",), ("rows",)),
    Node("selectors.0.fc1/MatMul", "MatMul", ("rows", "v"), ("s",)),
    Node("stage1.freeze/TopK", "TopK", ("s", "k"), ("best", "ids")),
    Node("between", "Identity", ("y",), ("z",)),
    Node("stage1.freeze/Gather", "Gather", ("z", "ids"), ("kept",)),
    Node("blocks.1/Add", "Add", ("kept", "z"), ("out",)),
    Node("norm/LayerNormalization", "LayerNormalization", ("out", "g"), ("o",)),
    Node("head/Gemm", "Gemm", ("o", "h"), ("logits",)),
]


@pytest.fixture
def modules() -> Modules:
    return Modules(GRAPH)


@pytest.mark.parametrize(
    ("scope", "module"),
    [
        ("blocks.3.attn.qkv", "blocks.3"),
        ("blocks.11", "blocks.11"),
        ("selectors.0.norm", "selectors.0"),
        ("approximators.1.fc2", "approximators.1"),
        ("stage1.freeze", "stage1.freeze"),
        ("stage2.thaw", "stage2.thaw"),
        ("freeze.0", "freeze.0"),
        ("patch_embed", None),
        ("", None),
    ],
)
def test_scopes(scope: str, module: str | None) -> None:
    assert module_of(scope) == module


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("patch_embed/Conv", "stem"),
        ("Add", "stem"),
        ("blocks.0.mlp/Erf", "blocks.0"),
        ("Slice", "selectors.0"),  # its only reader's reader is the selector
        ("patches:rows", "selectors.0"),
        ("between", "blocks.0"),  # its readers do not agree, so it counts to what it reads
        ("norm/LayerNormalization", "head"),
        ("head/Gemm", "head"),
    ],
)
def test_own_nodes(modules: Modules, name: str, module: str) -> None:
    assert modules.place([Node(name, "any")]) == {name: module}


def test_modules_are_in_execution_order(modules: Modules) -> None:
    assert modules.order == ["stem", "blocks.0", "selectors.0", "stage1.freeze", "blocks.1", "head"]


@pytest.mark.parametrize(
    ("node", "module"),
    [
        (Node("blocks.1/Add/Fused", "FusedAdd", ("a",), ("b",)), "blocks.1"),  # by the beginning of its name
        (Node("conv2d_nchwc", "Conv", ("images",), ("p",)), "stem"),  # by what it makes
        (Node("Gelu_token_3", "Gelu", ("n",), ("fused",)), "blocks.0"),  # by what it reads
        (Node("conv2d_nchwc", "Conv"), OTHER),  # nothing known
        (Node("odd", "Concat", ("p", "kept"), ("q",)), OTHER),  # two modules' tensors
    ],
)
def test_nodes_of_the_runtime(modules: Modules, node: Node, module: str) -> None:
    assert modules.place([node]) == {node.name: module}


def test_a_new_node_between_known_ones_goes_with_its_reader(modules: Modules) -> None:
    packed = Node("conv2d_nchwc", "Conv", ("images",), ("blocked",))
    plain = Node("ReorderOutput", "ReorderOutput", ("blocked",), ("p",))
    assert modules.place([packed, plain]) == {"conv2d_nchwc": "stem", "ReorderOutput": "stem"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("blocks.0.mlp/Erf", ("blocks.0", "Erf")),
        ("PWN(PWN(blocks.0.mlp/Erf), blocks.0/Add)", ("blocks.0", "Erf+Add")),
        ("__myl_AddNorm [ONNX Layer: blocks.1/Add]", ("blocks.1", "Add")),
        (
            "{ForeignNode[blocks.0.norm1/LayerNormalization...blocks.1/Add]}",
            ("blocks.0 .. blocks.1", "LayerNormalization+Add"),
        ),
        ("__myl_Fc_myl0_3", None),
        ("blocks.7/Add", None),  # no node of this graph
    ],
)
def test_layers_that_list_nodes(modules: Modules, text: str, found: tuple[str, str] | None) -> None:
    assert modules.named(text) == found


def test_a_graph_without_modules_is_other() -> None:
    assert Modules([Node("a", "Add", ("x",), ("y",))]).order == [OTHER]
