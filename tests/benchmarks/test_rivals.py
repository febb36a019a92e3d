"""Neighbours and controls: a profiler agrees with their prices; without reduction they are dense."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from accuracy.contender import correct_of
from accuracy.controls import FewerBlocks, FixedPattern, FixedPatternObjective, LowerResolution
from accuracy.objectives import ClassObjective
from accuracy.rivals.dynamicvit import DynamicViT, DynamicViTObjective, kept_distance
from accuracy.rivals.evit import EViT, keep_and_fuse
from accuracy.rivals.idlevit import IdleViT, IdleViTObjective, token_cut
from accuracy.rivals.reduced import Reduced, nearest
from accuracy.rivals.tome import ToMe, match, merge, spread
from accuracy.tasks import Arrays
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tofe_export.errors import UnsupportedModel
from tofe_export.model.backbone import Backbone, create_backbone
from tofe_export.training.batch import Batch, Step
from tofe_export.training.objective import Objective

LOCATIONS = (1, 2, 3)
Build = Callable[[Backbone], Reduced]

REDUCED: dict[str, Build] = {
    "DynamicViT": lambda b: DynamicViT(b, LOCATIONS, 0.6),
    "EViT": lambda b: EViT(b, LOCATIONS, 0.6),
    "ToMe": lambda b: ToMe(b, (2, 3, 2, 4)),
    "IdleViT": lambda b: IdleViT(b, 1, 0.6),
    "fewer blocks": lambda b: FewerBlocks(b, 2),
    "lower resolution": lambda b: LowerResolution(b, 3),
}
WHOLE: dict[str, Build] = {
    "DynamicViT": lambda b: DynamicViT(b, LOCATIONS, 1.0),
    "EViT": lambda b: EViT(b, LOCATIONS, 1.0),
    "ToMe": lambda b: ToMe(b, (0,) * 4),
    "IdleViT": lambda b: IdleViT(b, 1, 1.0),
    "fewer blocks": lambda b: FewerBlocks(b, 4),
    "lower resolution": lambda b: LowerResolution(b, 4),
}
FOR_MACS: dict[str, Callable[[Backbone, float], Reduced]] = {
    "DynamicViT": lambda b, macs: DynamicViT.for_macs(b, LOCATIONS, macs),
    "EViT": lambda b, macs: EViT.for_macs(b, LOCATIONS, macs),
    "ToMe": ToMe.for_macs,
    "IdleViT": lambda b, macs: IdleViT.for_macs(b, 1, macs),
    "random": lambda b, macs: FixedPattern.for_macs(b, LOCATIONS, "random", macs),
}
OBJECTIVES: dict[str, Callable[[Backbone], Objective]] = {
    "DynamicViT": lambda b: DynamicViTObjective(DynamicViT(b, LOCATIONS, 0.6)),
    "EViT": lambda b: ClassObjective(EViT(b, LOCATIONS, 0.6)),
    "ToMe": lambda b: ClassObjective(ToMe(b, (2, 3, 2, 4))),
    "IdleViT": lambda b: IdleViTObjective(IdleViT(b, 1, 0.6)),
    "random": lambda b: FixedPatternObjective(FixedPattern(b, LOCATIONS, "random", (8, 4, 2)), 2.0),
    "radial": lambda b: FixedPatternObjective(FixedPattern(b, LOCATIONS, "radial", (8, 4, 2)), 2.0),
}


@pytest.mark.parametrize("name", REDUCED)
def test_macs_are_those_a_profiler_counts(name: str, backbone: Backbone, images: Tensor) -> None:
    model = REDUCED[name](backbone).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        logits = model(images[:1])
    assert logits.shape == (1, 5)
    spared = 0
    if isinstance(model, DynamicViT):  # computes the difference of two logits where the account has both
        spared = (16 + sum(model.kept()[:2])) * backbone.width // 4
    assert model.macs() == counter.get_total_flops() // 2 + spared


@pytest.mark.parametrize("name", WHOLE)
def test_without_reduction_it_is_the_dense_model(name: str, backbone: Backbone, images: Tensor) -> None:
    with torch.no_grad():
        expected = backbone.dense(images)
        found, reduced = WHOLE[name](backbone).eval()(images), REDUCED[name](backbone).eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (reduced - expected).abs().max() > 1e-3


@pytest.mark.parametrize("name", FOR_MACS)
def test_the_price_can_be_chosen(name: str, backbone: Backbone) -> None:
    whole = FewerBlocks(backbone, 4).macs()
    for share in (0.5, 0.8):
        model = FOR_MACS[name](backbone, share * whole)
        assert model.macs() == pytest.approx(share * whole, rel=0.1)  # 16 tokens make large steps


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_reach_all_that_is_trained(name: str, backbone: Backbone, images: Tensor) -> None:
    objective = OBJECTIVES[name](backbone)
    noise = torch.randn(3, 3, 16, generator=torch.Generator().manual_seed(2))
    batch = Batch(images, torch.tensor([0, 3, 1]), torch.arange(3), noise)
    terms = objective(batch, Step(0, 0.0, None))
    sum(terms.losses.values(), torch.zeros(())).backward()
    for group, parameters in objective.groups().items():
        for parameter in parameters:
            assert parameter.grad is not None, group
            assert parameter.grad.isfinite().all()
    assert all(loss.isfinite() and loss >= 0 for loss in terms.losses.values())


def test_dynamicvit_leaves_cls_and_positions_alone(backbone: Backbone) -> None:
    objective = DynamicViTObjective(DynamicViT(backbone, LOCATIONS, 0.6))
    trained = {id(p) for parameters in objective.groups().values() for p in parameters}
    fixed = [name for name, p in backbone.vit.named_parameters() if id(p) not in trained]
    assert fixed == ["cls_token", "pos_embed"]


def test_distance_counts_kept_tokens_only() -> None:
    ours, theirs = torch.zeros(1, 3, 2), torch.tensor([[[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]]])
    assert kept_distance(ours, theirs, torch.tensor([[1.0, 1.0, 0.0]])) == pytest.approx((1 + 4) / 2)
    assert kept_distance(ours, theirs, torch.zeros(1, 3)) == 0


def test_evit_fuses_what_it_drops() -> None:
    x = torch.tensor([[[0.0], [1.0], [2.0], [4.0]]])
    scores = torch.tensor([[0.1, 0.6, 0.3]])
    assert keep_and_fuse(x, scores, 1).flatten().tolist() == pytest.approx([0, 2, 0.1 * 1 + 0.3 * 4])
    assert keep_and_fuse(x, scores, 3).shape == (1, 4, 1)


def test_tome_merges_the_most_similar_pair_by_size() -> None:
    keys = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]]])
    x, size = torch.tensor([[[7.0], [1.0], [2.0], [4.0], [5.0], [6.0]]]), torch.ones(1, 6, 1)
    size[0, 2] = 3  # stands for three patches
    merged, sizes = merge(x, size, keys, 1)
    assert merged.flatten().tolist() == [7, 5, 1, (3 * 2 + 4) / 4, 6]  # even ones that stay, then odd ones
    assert sizes.flatten().tolist() == [1, 1, 1, 4, 1]


def test_tome_never_merges_the_cls_and_loses_nothing() -> None:
    random = torch.Generator().manual_seed(3)
    x, keys = torch.randn(2, 9, 4, generator=random), torch.randn(2, 9, 3, generator=random)
    stay, go, _ = match(keys, 4)
    assert (stay[:, 0] == 0).all()
    assert (go != 0).all()
    merged, sizes = merge(x, torch.ones(2, 9, 1), keys, 4)
    assert merged.shape == (2, 5, 4)
    torch.testing.assert_close((merged * sizes).sum(dim=1), x.sum(dim=1))
    assert (sizes.sum(dim=1) == 9).all()


def test_spread_is_even() -> None:
    assert spread(10, 4) == (2, 3, 2, 3)
    assert all(sum(spread(total, 7)) == total for total in range(30))


def test_idlevit_trains_on_what_it_runs(backbone: Backbone, images: Tensor) -> None:
    model = IdleViT(backbone, 1, 0.6).eval()
    assert model.kept() == (9, 5, 3)
    with torch.no_grad():
        torch.testing.assert_close(model.masked(images).logits, model(images), rtol=1e-4, atol=1e-5)


def test_token_cut_punishes_attention_across_sets() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    inside = torch.tensor([[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]])
    across = torch.tensor([[[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]])
    assert token_cut(inside, mask) == 0
    assert token_cut(across, mask) == pytest.approx(2 / 3)  # one row of three is wrong, twice by 1


def test_patterns_keep_what_they_say(backbone: Backbone, images: Tensor) -> None:
    noise = torch.randn(3, 3, 16, generator=torch.Generator().manual_seed(4))
    radial = FixedPattern(backbone, LOCATIONS, "radial", (4, 3, 1)).masks(noise)
    assert radial[0].reshape(3, 4, 4)[0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    random = FixedPattern(backbone, LOCATIONS, "random", (4, 3, 1))
    assert [mask.sum(dim=1).tolist() for mask in random.masks(noise)] == [[4] * 3, [3] * 3, [1] * 3]
    assert (random.masks(noise)[0] != radial[0]).any()
    with torch.no_grad():
        assert random(images).equal(random(images))


def test_of_equal_prices_the_cheaper_setting_wins() -> None:
    assert nearest([3, 5], lambda n: n, 4.0) == 3
    assert nearest([3, 5], lambda n: n, 4.5) == 5


def test_a_second_prefix_token_is_refused() -> None:
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2}
    distilled = create_backbone("deit_tiny_distilled_patch16_224", arguments)
    with pytest.raises(UnsupportedModel, match="one prefix token"):
        EViT(distilled, LOCATIONS, 0.5)(torch.zeros(1, 3, 32, 32))


def test_hits_are_counted_per_image() -> None:
    labels = torch.arange(600) % 3
    hits = correct_of(lambda images: images[:, 0, :, 0], Arrays(torch.zeros(600, 3, 2, 2), labels))
    assert hits.equal(labels == 0)
