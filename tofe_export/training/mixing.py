"""Mixup, CutMix and label smoothing of a batch, by timm, with draws that a resumed run repeats."""

from __future__ import annotations

from collections.abc import Sequence

from timm.data.mixup import Mixup, mixup_target

from tofe_export.errors import UsageError
from tofe_export.training.batch import Batch
from tofe_export.training.loading import micro_batch
from tofe_export.training.recipe import Recipe
from tofe_export.training.seeding import MIX, seeded


class Mixing:
    """`mix(batch, key)`: the batch with mixed images and soft targets (B, C).

    One draw per batch, as DeiT does: CutMix or Mixup with even chance where both are on. With both off, only
    labels are smoothed; with smoothing 0 as well, or augment "none", the batch stays as it is, its targets
    class indices. Raises UsageError where a process' part of a micro-batch is odd: images are mixed in pairs.
    """

    def __init__(self, recipe: Recipe, num_classes: int, processes: int = 1) -> None:
        on = recipe.augment != "none"
        self.num_classes = num_classes
        self.smoothing = recipe.smoothing if on else 0.0
        self._mixup: Mixup | None = None
        if on and (recipe.mixup > 0 or recipe.cutmix > 0):
            _require_even(micro_batch(recipe, processes))
            self._mixup = Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                label_smoothing=recipe.smoothing,
                num_classes=num_classes,
            )

    def __call__(self, batch: Batch, key: Sequence[int]) -> Batch:
        """Mix `batch.images` in place; `key` are integers such as (seed, step, micro-batch, rank)."""
        if self._mixup is not None:
            _require_even(len(batch.images))
            with seeded(MIX, *key):
                images, targets = self._mixup(batch.images, batch.targets)
            return batch._replace(images=images, targets=targets)
        if self.smoothing > 0:
            soft = mixup_target(batch.targets, self.num_classes, smoothing=self.smoothing)
            return batch._replace(targets=soft)
        return batch


def _require_even(count: int) -> None:
    if count % 2:
        raise UsageError(
            f"expected an even number of images in each process' micro-batch, because mixup and cutmix mix "
            f"them in pairs, found {count}. Change --batch-size, or give --mixup 0 --cutmix 0"
        )
