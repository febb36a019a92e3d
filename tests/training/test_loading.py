"""The order of an epoch, batch sizes, and that workers change nothing."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from tofe_export.errors import UsageError
from tofe_export.training.batch import Batch
from tofe_export.training.loading import EpochSampler, in_order, loader, micro_batch
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import ArraySamples


def data(count: int, seed: int = 0) -> ArraySamples:
    images = torch.arange(count, dtype=torch.float32).reshape(count, 1, 1, 1).expand(count, 3, 2, 2)
    return ArraySamples(images, list(range(count)), seed, (2, 3))


def recipe(**change: Any) -> Recipe:
    return Recipe(**{"budgets": (1.0,), "batch_size": 4, **change})


def batches(workers: int, epoch: int, count: int = 10) -> list[Batch]:
    loaded: Any = loader(data(count), recipe(), workers)
    loaded.batch_sampler.sampler.set_epoch(epoch)
    return list(loaded)


def test_an_epoch_is_every_sample_once_in_an_order_of_its_own() -> None:
    sampler = EpochSampler(50, seed=0)
    first = list(sampler)
    assert len(sampler) == 50
    assert sorted(first) == [(0, index) for index in range(50)]
    assert first != sorted(first)
    assert list(sampler) == first
    sampler.set_epoch(1)
    second = list(sampler)
    assert {epoch for epoch, _ in second} == {1}
    assert [index for _, index in second] != [index for _, index in first]
    assert list(EpochSampler(50, seed=1)) != first


def test_loader_drops_the_incomplete_batch() -> None:
    found = batches(workers=0, epoch=3)
    assert [len(batch.images) for batch in found] == [4, 4]
    order = EpochSampler(10, 0)
    order.set_epoch(3)
    assert torch.cat([batch.indices for batch in found]).tolist() == [index for _, index in order][:8]


def test_workers_change_nothing() -> None:
    for mine, theirs in zip(batches(0, epoch=2), batches(2, epoch=2), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_loading_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(0)
    expected = torch.get_rng_state()
    batches(0, epoch=0)
    list(in_order(data(3), 2))
    assert torch.equal(torch.get_rng_state(), expected)


def test_in_order_holds_everything_once() -> None:
    found = [batch.indices.tolist() for batch in in_order(data(5), 2)]
    assert found == [[0, 1], [2, 3], [4]]


def test_micro_batches_split_the_batch() -> None:
    assert micro_batch(recipe(batch_size=24, accumulate=3), processes=2) == 4
    loaded: Any = loader(data(30), recipe(batch_size=24, accumulate=3), 0, processes=2)
    assert [len(batch.images) for batch in loaded] == [8, 8, 8]


@pytest.mark.parametrize(
    ("change", "processes", "message"),
    [
        (
            {"batch_size": 10, "accumulate": 2},
            2,
            "2 micro-batches on 2 processes divide, found 10. Choose --batch-size 8 or 12",
        ),
        ({"batch_size": 2, "accumulate": 3}, 1, "found 2. Choose --batch-size 3"),
    ],
)
def test_batch_size_has_to_divide(change: dict[str, int], processes: int, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        loader(data(30), recipe(**change), 0, processes)


def test_too_few_images_for_a_batch() -> None:
    with pytest.raises(UsageError, match=r"at least one batch of 4 .* found 3\. Choose --batch-size 3 "):
        loader(data(3), recipe(), 0)
    with pytest.raises(UsageError, match="at least one batch of 4"):
        loader(data(3), recipe(accumulate=2), 0)
