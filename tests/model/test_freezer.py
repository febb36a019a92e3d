"""The freezers by themselves, on tokens that are told apart by their value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tofe_export.errors import InputError
from tofe_export.model.freezer import AdaptiveFreezer, ForcedFreezer, Freezer, StageRecord, StaticFreezer
from tofe_export.model.references import thresholds_on
from tofe_export.model.tofe import ToFe

MakeModel = Callable[..., ToFe]
MakeImages = Callable[..., Tensor]
Difference = Callable[..., float]
INF = float("inf")


def tokens(scores: Tensor, prefix: int = 1) -> Tensor:
    """Prefix tokens are -1; patch token i of image b is 100 b + i, in two channels."""
    batch, count = scores.shape
    patches = 100.0 * torch.arange(batch)[:, None] + torch.arange(count)
    return torch.cat([torch.full((batch, prefix), -1.0), patches], dim=1)[..., None].expand(-1, -1, 2)


def kept_by(freezer: Freezer, scores: Tensor, prefix: int = 1) -> list[list[float]]:
    return freezer.freeze(tokens(scores, prefix), scores, 0).kept[:, prefix:, 0].tolist()


def test_static_keeps_the_best_of_every_image() -> None:
    scores = torch.tensor([[0.1, 0.9, -3.0, 0.5], [4.0, 1.0, 2.0, 3.0]])
    assert kept_by(StaticFreezer([2]), scores) == [[1, 3], [100, 103]]


def test_equal_scores_keep_the_lowest_index() -> None:
    scores = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0, 1.0]]).repeat(2, 1)
    assert kept_by(StaticFreezer([4]), scores) == [[1, 3, 0, 2], [101, 103, 100, 102]]
    many = torch.zeros(1, 3000)  # sorting algorithms change with the size
    assert kept_by(StaticFreezer([1500]), many) == [list(range(1500))]


def test_equal_scores_give_the_same_sets_in_a_model(make_model: MakeModel, make_images: MakeImages) -> None:
    model, records = make_model(), list[StageRecord]()
    for selector in model.selectors:
        selector.fc3.weight.zero_()  # type: ignore[operator, union-attr]
    model(make_images(model), StaticFreezer((9, 6, 3)), record=records)
    for record, count in zip(records, (9, 6, 3), strict=True):
        assert record.kept.tolist() == [list(range(count))] * 2


@pytest.mark.parametrize("every_row", [False, True])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_thaw_undoes_freeze(prefix: int, every_row: bool) -> None:
    scores = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    x, freezer = tokens(scores, prefix), StaticFreezer([3])
    split = freezer.freeze(x, scores, 0)
    assert (split.kept.shape, split.frozen.shape) == ((3, prefix + 3, 2), (3, 4, 2))
    back = freezer.thaw(split.kept, x[:, prefix:] if every_row else split.frozen, split, every_row=every_row)
    assert torch.equal(back, x)
    changed = freezer.thaw(split.kept + 0.5, split.frozen, split, every_row=False)
    assert ((changed - x)[:, :, 0] == 0.5).sum(dim=1).tolist() == [prefix + 3] * 3


@pytest.mark.parametrize("keep", [0, 5, -1])
def test_static_refuses_impossible_counts(keep: int) -> None:
    with pytest.raises(InputError, match=f"stage 1 cannot keep {keep} of 4 tokens"):
        kept_by(StaticFreezer([keep]), torch.zeros(1, 4))


def test_adaptive_keeps_what_reaches_the_threshold() -> None:
    scores = torch.tensor([[0.25, 1.5, -2.0, 0.5]])
    assert kept_by(AdaptiveFreezer([0.5]), scores) == [[1, 3]]
    assert kept_by(AdaptiveFreezer([-INF]), scores) == [[1, 3, 0, 2]]


def test_adaptive_keeps_at_least_the_best() -> None:
    assert kept_by(AdaptiveFreezer([INF]), torch.tensor([[0.25, 1.5, -2.0, 0.5]])) == [[1]]
    assert kept_by(AdaptiveFreezer([INF]), torch.tensor([[0.5, 1.5, 1.5, 0.5]])) == [[1, 2]]


def test_adaptive_takes_one_image() -> None:
    with pytest.raises(InputError, match="one image at a time, got a batch of 2"):
        kept_by(AdaptiveFreezer([0.0]), torch.zeros(2, 4))


def test_forced_sets_replace_the_scores() -> None:
    scores = torch.tensor([[9.0, 8.0, 0.0, 0.0], [9.0, 8.0, 0.0, 0.0]])
    masks = torch.tensor([[False, False, True, True], [True, False, False, True]])
    assert kept_by(ForcedFreezer([masks]), scores) == [[2, 3], [100, 103]]


def test_forced_sets_of_different_sizes_are_refused() -> None:
    masks = torch.tensor([[True, False], [True, True]])
    with pytest.raises(InputError, match=r"one size, got \[1, 2\]"):
        kept_by(ForcedFreezer([masks]), torch.zeros(2, 2))


def test_forcing_the_models_own_sets_changes_nothing(
    make_model: MakeModel, make_images: MakeImages, difference: Difference
) -> None:
    model, records = make_model(), list[StageRecord]()
    images = make_images(model)
    expected = model(images, StaticFreezer((9, 6, 3)), record=records)
    masks = [record.spatial(16)[1] for record in records]
    assert difference(model(images, ForcedFreezer(masks)), expected) <= 1e-5
    masks[1] = masks[1].roll(1, dims=1)
    assert difference(model(images, ForcedFreezer(masks)), expected) > 1e-3


@pytest.mark.parametrize("reuse", [True, False], ids=["reuse", "no reuse"])
def test_thresholds_meet_the_mean_counts(reuse: bool, make_model: MakeModel, make_images: MakeImages) -> None:
    model, keep, count = make_model(reuse=reuse), (9, 6, 3), 12
    images = make_images(model, count)
    thresholds = thresholds_on(model, images.numpy(), keep, lambda _: None)
    counts, forced = torch.zeros(count, 3), torch.zeros(3)
    for i, image in enumerate(images.split(1)):
        records: list[StageRecord] = []
        model(image, AdaptiveFreezer(thresholds), record=records)
        counts[i] = torch.tensor([record.kept.shape[1] for record in records])
        forced += torch.tensor([float(r.scores.max()) < t for r, t in zip(records, thresholds, strict=True)])
    assert counts.min() >= 1
    assert counts.std(dim=0).min() > 0  # images really differ
    # Exactly the mean, but for images that reach the threshold with no token and keep their best.
    assert torch.equal(counts.sum(dim=0) - forced, count * torch.tensor(keep, dtype=torch.float32))


def test_thresholds_that_keep_everything(make_model: MakeModel, make_images: MakeImages) -> None:
    model = make_model()
    images = make_images(model, 3)
    thresholds = thresholds_on(model, images.numpy(), (16, 16, 16), lambda _: None)
    records: list[StageRecord] = []
    model(images[:1], AdaptiveFreezer(thresholds), record=records)
    assert [record.kept.shape[1] for record in records] == [16, 16, 16]
