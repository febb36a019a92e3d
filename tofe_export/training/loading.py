"""From a data set to batches: in which order, how large, by how many workers.

The order of an epoch is drawn from (seed, epoch) alone, and a sample's key carries its epoch. So batch k of
epoch e is the same images with the same augmentation in every run, whoever loads it.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from tofe_export.errors import UsageError
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import Sample, collate
from tofe_export.training.seeding import ORDER, permutation

Key = tuple[int, int]  # (epoch, index)


class EpochSampler(Sampler[Key]):
    """All samples of an epoch once, as (epoch, index), in the order drawn for (seed, epoch)."""

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration runs through."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Key]:
        epoch = self.epoch
        return ((epoch, int(index)) for index in permutation(self.count, ORDER, self.seed, epoch))


def loader(dataset: Dataset[Sample], recipe: Recipe, workers: int, processes: int = 1) -> DataLoader[Sample]:
    """Global micro-batches of batch_size / accumulate images, each a `Batch`; no incomplete one.

    accelerate (split_batches=True) hands each of `processes` its part of every batch. The epoch is set by
    `loader.batch_sampler.sampler.set_epoch`. Raises UsageError: sizes do not divide, or too few images.
    """
    size = micro_batch(recipe, processes) * processes
    if (count := count_of(dataset)) < recipe.batch_size:
        raise UsageError(
            f"expected at least one batch of {recipe.batch_size} training images, found {count}. "
            f"Choose --batch-size {count} or less, or give more images"
        )
    sampler: Any = EpochSampler(count, recipe.seed)  # torch's type expects plain indices
    batches = BatchSampler(sampler, size, drop_last=True)
    return _loader(dataset, workers, batch_sampler=batches)


def in_order(dataset: Dataset[Sample], batch_size: int, workers: int = 0) -> DataLoader[Sample]:
    """All samples once, in their order, with the draws of epoch 0; the last batch may be smaller."""
    keys = [(0, index) for index in range(count_of(dataset))]
    return _loader(dataset, workers, batch_size=batch_size, sampler=keys)


def micro_batch(recipe: Recipe, processes: int = 1) -> int:
    """Images of one forward pass of one process. Raises UsageError where the batch size does not divide."""
    parts = recipe.accumulate * processes
    if recipe.batch_size % parts:
        below = recipe.batch_size // parts * parts
        choices = f"{below} or {below + parts}" if below else f"{parts}"
        raise UsageError(
            f"expected a batch size that {recipe.accumulate} micro-batches on {processes} processes divide, "
            f"found {recipe.batch_size}. Choose --batch-size {choices}"
        )
    return recipe.batch_size // parts


def count_of(dataset: Dataset[Sample]) -> int:
    """How many samples a data set has (torch's type does not promise a length; ours have one)."""
    return len(dataset)  # type: ignore[arg-type]


def _loader(dataset: Dataset[Sample], workers: int, **batching: Any) -> DataLoader[Sample]:  # noqa: ANN401
    return DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else each epoch would take a number from the global generator
        **batching,
    )


def _start_worker(_: int) -> None:
    """Ctrl-C reaches workers too; the main process still wants their batches to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
