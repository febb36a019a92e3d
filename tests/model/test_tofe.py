"""What every forward must obey: permutation, K = N, index 0 keeps, recovery, ids, tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tofe_export.budget import dense_macs, gmacs
from tofe_export.errors import UsageError
from tofe_export.model.backbone import create_backbone
from tofe_export.model.freezer import Split, StageRecord, StaticFreezer
from tofe_export.model.tofe import Structure, ToFe, condition_of

MakeModel = Callable[..., ToFe]
MakeImages = Callable[..., Tensor]
Difference = Callable[..., float]
KEEP = (9, 6, 3)
TOKENS = 16


class Watching(StaticFreezer):
    """Remembers every stage's entry and what it froze."""

    def __init__(self, keep: tuple[int, ...]) -> None:
        super().__init__(keep)
        self.entries: list[Tensor] = []
        self.splits: list[Split] = []

    def freeze(self, x: Tensor, scores: Tensor, stage: int) -> Split:
        self.entries.append(x)
        self.splits.append(super().freeze(x, scores, stage))
        return self.splits[-1]


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "lvvit_s"])
def test_permuting_patch_tokens_permutes_the_result(
    name: str,
    reuse: bool,
    make_model: MakeModel,
    make_images: MakeImages,
    difference: Difference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model(name, reuse=reuse)
    images, before, after = make_images(model), list[StageRecord](), list[StageRecord]()
    logits, tokens = (
        model(images, StaticFreezer(KEEP), record=before),
        model(images, StaticFreezer(KEEP), "tokens"),
    )
    permutation = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3))
    prefix, x = model.backbone.prefix, model.backbone.embed(images)
    shuffled = torch.cat([x[:, :prefix], x[:, prefix:][:, permutation]], dim=1)
    monkeypatch.setattr(model.backbone, "embed", lambda _: shuffled)
    assert difference(model(images, StaticFreezer(KEEP), record=after), logits) <= 1e-5
    assert difference(model(images, StaticFreezer(KEEP), "tokens"), tokens[:, permutation]) <= 1e-5
    for first, second in zip(before, after, strict=True):
        assert torch.equal(first.spatial(TOKENS)[1][:, permutation], second.spatial(TOKENS)[1])


@pytest.mark.parametrize("output", ["head", "tokens"])
@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
def test_keeping_all_tokens_is_the_backbone(
    output: str, reuse: bool, make_model: MakeModel, make_images: MakeImages, difference: Difference
) -> None:
    model = make_model(reuse=reuse)
    images, vit = make_images(model), model.backbone.vit
    expected = model.backbone.dense(images) if output == "head" else vit.forward_features(images)[:, 1:]  # type: ignore[operator]
    assert difference(model(images, StaticFreezer([TOKENS] * 3), output), expected) <= 1e-5


def test_index_0_means_keep(
    make_model: MakeModel, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    images = make_images(model, 1)
    selector: Any = model.selectors[0]
    selector.fc3.weight[1] = 0  # so that what follows changes logit 0 alone
    records: list[StageRecord] = []
    model(images, StaticFreezer(KEEP), record=records)
    frozen = int((~records[0].spatial(TOKENS)[1][0]).nonzero()[0])
    features = selector.features

    def raised(x: Tensor, alive: Tensor | None) -> Tensor:
        hidden: Tensor = features(x, alive).clone()
        hidden[:, frozen] += 20 * selector.fc3.weight[0] / selector.fc3.weight[0].norm()
        return hidden

    monkeypatch.setattr(selector, "features", raised)
    model(images, StaticFreezer(KEEP), record=records)
    assert records[3].spatial(TOKENS)[1][0, frozen]
    assert records[3].kept[0, 0] == frozen


def test_recovery_comes_before_every_selection_but_the_first(
    make_model: MakeModel, make_images: MakeImages
) -> None:
    model, order = make_model(), list[str]()
    for kind, modules in (("select", model.selectors), ("recover", model.approximators)):
        for i, module in enumerate(modules):
            module.register_forward_hook(lambda *_, what=f"{kind} {i + 1}": order.append(what))
    model(make_images(model), StaticFreezer(KEEP))
    assert order == ["select 1", "recover 1", "select 2", "recover 2", "select 3"]


def test_recovered_tokens_stand_at_their_old_places(make_model: MakeModel, make_images: MakeImages) -> None:
    model, freezer = make_model(), Watching(KEEP)
    model(make_images(model), freezer)
    for stage in (0, 1):
        frozen = freezer.splits[stage].order[:, KEEP[stage] :] + 1  # behind the CLS token
        rows = torch.arange(2)[:, None]
        expected = model.approximators[stage](freezer.entries[stage])[rows, frozen]
        torch.testing.assert_close(freezer.entries[stage + 1][rows, frozen], expected)


def test_without_reuse_only_survivors_are_selected(make_model: MakeModel, make_images: MakeImages) -> None:
    model, freezer, records = make_model(reuse=False), Watching(KEEP), list[StageRecord]()
    images = make_images(model)
    model(images, freezer, record=records)
    assert [tuple(record.scores.shape) for record in records] == [(2, 16), (2, 9), (2, 6)]
    assert len(model.approximators) == 0
    for image in range(2):
        alive = list(range(TOKENS))  # spatial ids, in the order of the stage-entry tokens
        for stage, record in enumerate(records):
            assert record.ids[image].tolist() == alive
            scores = model.selectors[stage](freezer.entries[stage][image : image + 1, 1:])[0]
            torch.testing.assert_close(record.scores[image], scores)
            best = sorted(range(len(alive)), key=lambda i: -float(scores[i]))[: KEEP[stage]]
            alive = [alive[i] for i in best]
            assert record.kept[image].tolist() == alive
    scores, kept = records[1].spatial(TOKENS)
    assert torch.equal(~scores.isnan(), records[0].spatial(TOKENS)[1])
    assert kept.sum(dim=1).tolist() == [6, 6]


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
def test_all_tokens_come_out_in_spatial_order(
    reuse: bool, make_model: MakeModel, make_images: MakeImages
) -> None:
    model, freezer, records = make_model(reuse=reuse), Watching(KEEP), list[StageRecord]()
    found = model(make_images(model), freezer, "tokens", records)
    assert found.shape == (2, TOKENS, 48)
    processed = freezer.splits[2].kept
    for block in model.backbone.blocks[3:]:
        processed = block(processed)
    for image in range(2):
        expected: dict[int, Tensor] = {}
        for stage in (2,) if reuse else (0, 1, 2):  # with reuse, earlier stages' frozen tokens were recovered
            record, entry = records[stage], freezer.entries[stage][image, 1:]
            kept = set(record.kept[image].tolist())
            expected |= {
                i: row for i, row in zip(record.ids[image].tolist(), entry, strict=True) if i not in kept
            }
        expected |= dict(zip(records[2].kept[image].tolist(), processed[image, 1:], strict=True))
        rows = torch.stack([expected[i] for i in range(TOKENS)])
        torch.testing.assert_close(found[image], model.backbone.final_norm(rows))


def test_a_record_changes_nothing(make_model: MakeModel, make_images: MakeImages) -> None:
    model = make_model()
    images = make_images(model)
    assert torch.equal(model(images, StaticFreezer(KEEP)), model(images, StaticFreezer(KEEP), record=[]))


@pytest.mark.parametrize("locations", [(), (2, 1), (1, 1), (-1, 2), (1, 4)])
def test_locations_must_increase_within_the_blocks(locations: tuple[int, ...]) -> None:
    backbone = create_backbone("deit_tiny_patch16_224", {"depth": 4, "embed_dim": 48})
    with pytest.raises(UsageError, match="increasing blocks between 0 and 3"):
        ToFe(backbone, Structure(locations))


def test_default_locations_are_the_papers() -> None:
    with torch.device("meta"):
        found = {n: create_backbone(n).locations for n in ("deit_small_patch16_224", "lvvit_s", "lvvit_m")}
    assert found == {"deit_small_patch16_224": (3, 6, 9), "lvvit_s": (4, 8, 12), "lvvit_m": (5, 10, 15)}


def test_fresh_approximators_are_the_identity() -> None:
    """Training starts where reuse without approximation stands (decision 3)."""
    backbone = create_backbone("deit_tiny_patch16_224", {"img_size": 64, "depth": 4, "embed_dim": 48})
    x = torch.randn(2, TOKENS, 48, generator=torch.Generator().manual_seed(0))
    for kind in ("bottleneck", "identity", "depthwise"):
        model = ToFe(backbone, Structure((1, 2, 3), approximator=kind))
        assert torch.equal(model.approximators[0](x), x)
    block = ToFe(backbone, Structure((1, 2, 3), approximator="block")).approximators[1]
    torch.testing.assert_close(block(x), backbone.blocks[2](x))


def test_the_condition_is_the_budget_as_printed_on_a_scale_around_half_the_dense_cost(
    make_model: MakeModel,
) -> None:
    cost = make_model("deit_small_patch16_224", {"img_size": 224, "depth": 12, "embed_dim": 384}).cost()
    dense = gmacs(dense_macs(cost))
    assert condition_of(cost, None) == 0
    assert condition_of(cost, 2.3) == 8 * (2 * 2.3 / dense - 1) == condition_of(cost, 2.304)
    assert condition_of(cost, 2.31) > condition_of(cost, 2.3)
    assert abs(condition_of(cost, dense) - 8) < 0.02


@pytest.mark.parametrize("selector", ["mlp", "dynamicvit"])
def test_a_conditioned_model_chooses_by_its_budget(
    selector: str, make_model: MakeModel, make_images: MakeImages
) -> None:
    model, plain = (make_model(selector=selector, conditioned=flag) for flag in (True, False))
    model.load_state_dict(plain.state_dict(), strict=False)
    assert model.cost() == plain.cost()
    images, dense = make_images(model), gmacs(dense_macs(model.cost()))

    def scores(of: ToFe, budget: float | None) -> Tensor:
        records: list[StageRecord] = []
        of.set_budget(budget)
        of(images, StaticFreezer(KEEP), record=records)
        return torch.stack([record.scores for record in records])

    assert torch.equal(scores(model, None), scores(plain, None))
    assert torch.equal(scores(plain, dense / 4), scores(plain, None))  # nothing to tell it
    low, high = scores(model, dense / 4), scores(model, dense)
    assert not torch.allclose(low, high, atol=0.1)
    assert torch.equal(scores(model, dense / 4), low)


def test_the_budget_moves_with_the_model_and_is_not_saved(make_model: MakeModel) -> None:
    model: Any = make_model(conditioned=True)
    saved = set(model.state_dict())
    assert {f"selectors.{s}.fc1.condition" for s in range(3)} <= saved
    assert not {f"selectors.{s}.fc1.b" for s in range(3)} & saved
    model.set_budget(0.01)
    expected = condition_of(model.cost(), 0.01)
    assert model.selectors[2].fc1.b == pytest.approx(expected)
    assert model.double().selectors[2].fc1.b.dtype == torch.float64
    assert model.to("meta").selectors[2].fc1.b.device.type == "meta"
