"""Opponents of the latency benchmark: each graph computes what it stands for, and costs what is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from accuracy.rivals.evit import EViT
from accuracy.rivals.idlevit import IdleViT
from accuracy.rivals.tome import ToMe
from latency.cases import DENSE, METHODS, ORACLE, OURS, PLAIN, STRAIGHT, Case, chosen
from latency.maker import Maker
from latency.models import smaller
from latency.rivals import evit, idlevit, tome
from latency.sides import SideList
from onnxruntime import InferenceSession
from torch import Tensor

from tofe_export.model.backbone import Backbone
from tofe_export.model.freezer import StaticFreezer

SMALL = {"patch_size": 2, "embed_dim": 24, "depth": 6, "num_heads": 2, "num_classes": 5}
TINY_CASE = Case(
    "tiny",
    "vit_tiny_patch16_224",
    0.00038,
    8,
    sides=(PLAIN, DENSE, *OURS, ORACLE, STRAIGHT, *METHODS, "6 px", "5 blocks"),
    arguments=SMALL,
)
Array = npt.NDArray[Any]

pytestmark = pytest.mark.benchmarks


@pytest.fixture(scope="session")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """The tiny case, traced once for all tests."""
    return Maker(TINY_CASE, SideList(tmp_path_factory.mktemp("latency")))


@pytest.fixture
def answer(maker: Maker) -> Callable[[str, Array], Array]:
    """What a side answers to images (B, 3, H, W)."""

    def run(name: str, images: Array) -> Array:
        side = maker.make(name, len(images))
        found: Array = InferenceSession(str(maker.sides.path(side))).run(None, {"images": images})[0]
        return found

    return run


@pytest.fixture
def pictures() -> Array:
    return np.random.RandomState(0).standard_normal((2, 3, 8, 8)).astype(np.float32)


def close(found: Array, expected: Array | Tensor) -> bool:
    other = np.asarray(expected)
    return bool(np.abs(found - other).max() < 1e-5 * np.ptp(other))


@pytest.mark.slow
def test_plain_is_dense_is_the_backbone(maker: Maker, answer: Any, pictures: Array) -> None:
    with torch.no_grad():
        expected = maker.checkpoint.model.backbone.dense(torch.from_numpy(pictures))
    assert np.ptp(np.asarray(expected)) > 0.1
    assert close(answer(PLAIN, pictures), expected)
    assert close(answer(DENSE, pictures), expected)


@pytest.mark.slow
def test_every_way_of_tofe_answers_as_tofe_and_the_oracle_does_not(
    maker: Maker, answer: Any, pictures: Array
) -> None:
    with torch.no_grad():
        expected = maker.checkpoint.model(torch.from_numpy(pictures), StaticFreezer(maker.keep))
    for name in (*OURS, STRAIGHT):
        assert close(answer(name, pictures), expected), name
    assert not close(answer(ORACLE, pictures), expected)


@pytest.mark.slow
def test_the_oracle_chooses_nothing_and_costs_least(maker: Maker) -> None:
    oracle = maker.make(ORACLE, 2)
    graph = onnx.load(maker.sides.path(oracle), load_external_data=False).graph
    operators = {node.op_type for node in graph.node}
    assert not operators & {"TopK", "ScatterND", "GatherND"}
    assert not [node.name for node in graph.node if node.name.startswith(("selectors", "approximators"))]
    others = [maker.make(name, 2).gmacs for name in (*OURS, STRAIGHT)]
    assert oracle.gmacs < min(others)
    assert oracle.setting["keep"] == maker.keep


@pytest.mark.slow
def test_the_oracle_brings_back_what_a_later_stage_keeps_more_of(maker: Maker) -> None:
    from latency.maker import binding_of
    from latency.oracle import bind_oracle

    model, template = maker._traced("own", lambda: maker.checkpoint.model)
    graph = bind_oracle(template, binding_of(model, "concat", 1, (3, 9, 2)), {}).graph
    joins = [node.name for node in graph.node if node.op_type == "Concat" and "thaw" in node.name]
    assert joins == ["stage1.thaw/Concat"]
    with pytest.raises(ValueError, match="expected the lowering"):
        bind_oracle(template, binding_of(model, "concat", 1, (3, 2, 1)), {}, passes=lambda *_: [])


@pytest.mark.slow
def test_methods_are_set_to_the_macs_of_the_cheaper_of_ours(maker: Maker) -> None:
    ours = min(maker.make(name, 2).gmacs for name in OURS)
    for name in METHODS:
        side = maker.make(name, 2)
        assert side.gmacs == pytest.approx(ours, rel=0.06), name  # 16 tokens: one more or less is much
        assert max(side.setting["kept"]) <= 16


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("graph", "model"),
    [
        (evit.EViTGraph, lambda b: EViT(b, (1, 2), 0.5)),
        (evit.EViTGraph, lambda b: EViT(b, (1, 2), 1.0)),
        (idlevit.IdleViTGraph, lambda b: IdleViT(b, 1, 0.6)),
        (tome.ToMeGraph, lambda b: ToMe(b, (0, 0, 0, 0))),
        (tome.ToMeGraph, lambda b: ToMe(b, (3, 0, 0, 0))),
        (tome.ToMeGraph, lambda b: ToMe(b, (0, 0, 5, 0))),
    ],
)
def test_graphs_compute_what_the_trained_neighbours_compute(
    backbone: Backbone, images: Tensor, graph: Any, model: Any, batch: int
) -> None:
    rival = model(backbone)
    with torch.no_grad():
        found, expected = graph(rival, batch)(images[:batch]), rival(images[:batch])
    assert np.ptp(np.asarray(expected)) > 0.1
    assert close(found.numpy(), expected)


def test_tome_weighs_by_size_when_it_merges_again(backbone: Backbone, images: Tensor) -> None:
    """Who is odd in the second block is its own choice, so compare with its own sums."""
    graph = tome.ToMeGraph(ToMe(backbone, (3, 3, 3, 0)), 3)
    x = torch.randn(3, 11, 4, generator=torch.Generator().manual_seed(0))
    size = torch.randint(1, 4, (3, 11, 1), generator=torch.Generator().manual_seed(1)).float()
    rows, sizes = graph._merged(x, size, x, 4)
    assert rows.shape == (3, 7, 4)
    assert torch.equal(sizes.sum(dim=1), size.sum(dim=1))
    assert torch.allclose((rows * sizes).sum(dim=1), (x * size).sum(dim=1), atol=1e-5)
    assert torch.equal(rows[:, 0], x[:, 0])  # the CLS stays in front, as it was


def test_graphs_refuse_what_they_cannot_express(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="no reduction in the last block"):
        evit.EViTGraph(EViT(backbone, (1, 3), 0.5), 1)


@pytest.mark.parametrize(
    ("price", "at_macs"),
    [
        (evit.graph_macs, evit.at_macs),
        (tome.graph_macs, tome.at_macs),
        (idlevit.graph_macs, idlevit.at_macs),
    ],
)
def test_the_setting_nearest_to_a_cost_is_found(maker: Maker, price: Any, at_macs: Any) -> None:
    backbone = maker.checkpoint.model.backbone
    cheap, dear = (price(at_macs(backbone, target)) for target in (0.3e6, 0.6e6))
    assert cheap == pytest.approx(0.3e6, rel=0.06)
    assert dear == pytest.approx(0.6e6, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "module"), [("evit", evit), ("tome", tome), ("idlevit", idlevit)])
def test_prices_are_what_the_file_counts(maker: Maker, name: str, module: Any) -> None:
    side = maker.make(name, 2)
    assert side.gmacs * 1e9 == pytest.approx(module.graph_macs(maker._rivals[name]), rel=1e-3)


@pytest.mark.slow
def test_smaller_models(maker: Maker, answer: Any) -> None:
    images = np.zeros((2, 3, 6, 6), np.float32)
    assert answer("6 px", images).shape == (2, 5)
    assert maker.make("6 px", 2).gmacs < maker.make(DENSE, 2).gmacs
    assert maker.make("5 blocks", 2).gmacs < maker.make(DENSE, 2).gmacs
    assert smaller("5 blocks") == {"depth": 5}
    assert smaller("evit") == {}


@pytest.mark.slow
def test_what_is_made_is_not_made_again_and_what_changed_is(
    maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = maker.make(DENSE, 2)
    path = maker.sides.path(side)
    again = SideList(maker.folder)
    assert again.find(DENSE, 2, side.made_from) == again.get(DENSE, 2) == side
    assert again.find(DENSE, 2, "other sources") is None
    assert again.find(DENSE, 7, side.made_from) is None
    before = path.stat().st_mtime_ns
    assert maker.make(DENSE, 2) == side
    assert path.stat().st_mtime_ns == before
    monkeypatch.setattr("latency.maker.sources_of", lambda name: "other sources")
    assert maker.make(DENSE, 2).made_from == "other sources"
    assert path.stat().st_mtime_ns > before


def test_cases_are_found_by_how_they_begin() -> None:
    assert [case.name for case in chosen(["deit_s-"])] == ["deit_s-2.0", "deit_s-2.3"]
    assert len(chosen([""])) == 6
    with pytest.raises(ValueError, match="found resnet"):
        chosen(["resnet"])
