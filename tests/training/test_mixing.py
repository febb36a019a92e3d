"""Mixup, CutMix and smoothing: what they do to a batch, and that they repeat."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tofe_export.errors import UsageError
from tofe_export.training.batch import Batch
from tofe_export.training.mixing import Mixing
from tofe_export.training.recipe import Recipe


def batch(count: int = 4) -> Batch:
    images = torch.arange(count * 3 * 4 * 4, dtype=torch.float32).reshape(count, 3, 4, 4)
    return Batch(images, torch.arange(count), torch.arange(count), torch.zeros(count, 1, 2))


def mixing(processes: int = 1, **change: Any) -> Mixing:
    settings: dict[str, Any] = {"budgets": (1.0,), "batch_size": 4, **change}
    return Mixing(Recipe(**settings), 5, processes)


def test_mixing_repeats_for_a_key_and_draws_nothing_else() -> None:
    mix = mixing()
    np.random.seed(0)
    expected = np.random.rand()
    np.random.seed(0)
    first, again, other = mix(batch(), (0, 7)), mix(batch(), (0, 7)), mix(batch(), (0, 8))
    assert np.random.rand() == expected
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.targets, other.targets)


def test_mixup_mixes_image_and_target_alike() -> None:
    source = batch()
    images = source.images.clone()
    mixed = mixing(cutmix=0.0, smoothing=0.0)(source, (0, 0))
    share = float(mixed.targets[0, 0])
    assert 0 < share < 1
    assert float(mixed.targets[0, 3]) == pytest.approx(1 - share)
    assert torch.allclose(mixed.images, share * images + (1 - share) * images.flip(0), atol=1e-4)
    assert torch.equal(mixed.indices, source.indices)
    assert torch.equal(mixed.noise, source.noise)


def test_cutmix_share_is_the_share_of_pixels() -> None:
    source = batch()
    images = source.images.clone()
    mixed = mixing(mixup=0.0, smoothing=0.0)(source, (0, 1))
    kept = float((mixed.images[0] == images[0]).float().mean())
    assert 0 < kept < 1
    assert float(mixed.targets[0, 0]) == pytest.approx(kept)


def test_targets_are_probabilities() -> None:
    targets = mixing()(batch(), (3, 1)).targets
    assert targets.shape == (4, 5)
    assert targets.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert float(targets.min()) >= 0.1 / 5 - 1e-6


def test_without_mixing_labels_are_smoothed_only() -> None:
    source = batch(3)  # an odd number is fine here
    found = mixing(mixup=0.0, cutmix=0.0, batch_size=3)(source, (0, 0))
    assert torch.equal(found.images, source.images)
    assert torch.allclose(found.targets, torch.eye(5)[:3] * 0.9 + 0.1 / 5)


@pytest.mark.parametrize("change", [{"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}, {"augment": "none"}])
def test_with_everything_off_the_batch_stays_as_it_is(change: dict[str, Any]) -> None:
    source = batch()
    assert mixing(**change)(source, (0, 0)) is source


@pytest.mark.parametrize(("size", "accumulate", "processes"), [(5, 1, 1), (6, 2, 1), (6, 1, 2)])
def test_odd_batches_are_refused_before_training(size: int, accumulate: int, processes: int) -> None:
    with pytest.raises(
        UsageError, match=rf"even number of images .* found {size // accumulate // processes}\."
    ):
        mixing(processes, batch_size=size, accumulate=accumulate)


def test_an_odd_batch_is_refused_when_it_comes() -> None:
    with pytest.raises(UsageError, match=r"even number of images .* found 3\."):
        mixing()(batch(3), (0, 0))
