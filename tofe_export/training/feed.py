"""The micro-batches of a training in their order, from any step on."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch.utils.data import BatchSampler, Dataset

from tofe_export.training.batch import Batch
from tofe_export.training.loading import EpochSampler, count_of, loader
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import Sample
from tofe_export.training.schedule import Length

if TYPE_CHECKING:
    from accelerate import Accelerator


class Feed:
    """Hands each process its part of every global micro-batch, on its device.

    An epoch has as many steps as the data has whole batches; what is left over waits for the next epoch's
    order. Raises UsageError where the batch size does not divide or exceeds the data.
    """

    def __init__(
        self, dataset: Dataset[Sample], recipe: Recipe, accelerator: Accelerator, workers: int
    ) -> None:
        batches = loader(dataset, recipe, workers, accelerator.num_processes)
        per_epoch = count_of(dataset) // recipe.batch_size
        self.length = Length(per_epoch, per_epoch * recipe.epochs)
        self._micro, self._epochs = recipe.accumulate, recipe.epochs
        self._sampler = _sampler(batches.batch_sampler)
        self._loader: Any = accelerator.prepare_data_loader(batches)

    def batches(self, step: int) -> Iterator[Batch]:
        """All micro-batches from `step` (0-based) to the end of the training; skipped ones are not loaded."""
        from accelerate import skip_first_batches

        start, skipped = divmod(step, self.length.per_epoch)
        for epoch in range(start, self._epochs):
            skip = skipped * self._micro if epoch == start else 0
            batches = skip_first_batches(self._loader, skip) if skip else self._loader
            batches.set_epoch(epoch)
            self._sampler.set_epoch(epoch)  # accelerate does not reach it behind a skip in several processes
            count = self.length.per_epoch * self._micro - skip
            yield from islice(batches, count)
            batches.end()  # islice stops where the last batch is handed out: accelerate would not see the end


def _sampler(batches: Any) -> EpochSampler:  # noqa: ANN401 - torch's type is a union without the attribute
    assert isinstance(batches, BatchSampler)
    assert isinstance(batches.sampler, EpochSampler)
    return batches.sampler
