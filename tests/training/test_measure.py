"""Counts and thresholds of small models, against sampling and adaptive inference written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch

from tofe_export.budget import gmacs, macs, macs_of
from tofe_export.errors import InputError
from tofe_export.model.freezer import AdaptiveFreezer, StageRecord
from tofe_export.model.masked import masked_forward, sampled
from tofe_export.model.references import thresholds_on
from tofe_export.model.tofe import ToFe
from tofe_export.training.batch import Batch
from tofe_export.training.measure import Counts, calibrate_thresholds, measure_counts, round_counts

MakeStudent = Callable[..., ToFe]
MakeBatch = Callable[..., Batch]
NAMES = ("deit_tiny_patch16_224", "lvvit_s")


def adaptive_counts(model: ToFe, batches: list[Batch], thresholds: tuple[float, ...]) -> torch.Tensor:
    """(n, S) tokens that really gathered, one image at a time, adaptive inference keeps."""
    rows = []
    for batch in batches:
        for image in batch.images.split(1):
            records: list[StageRecord] = []
            with torch.inference_mode():
                model(image, AdaptiveFreezer(thresholds), record=records)
            rows.append([record.kept.shape[1] for record in records])
    return torch.tensor(rows, dtype=torch.float64)


# counts


@pytest.mark.parametrize("reuse", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_counts_are_means_over_images_of_all_batches(
    name: str, reuse: bool, make_student: MakeStudent, make_batch: MakeBatch
) -> None:
    model = make_student(name, reuse=reuse).eval()
    batches = [make_batch(model, 3, seed=1), make_batch(model, 1, seed=2)]
    counts = measure_counts(model, batches, None)
    whole = Batch(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    masked = masked_forward(model, whole.images, sampled(whole.noise))
    kept = torch.stack([stage.mask.detach().sum(dim=1) for stage in masked.stages], dim=1)  # (4, S)
    assert counts.images == 4
    assert counts.keep_mean == pytest.approx(kept.mean(dim=0).tolist())
    costs = [macs(model.cost(), [int(k) for k in row]) / 1e9 for row in kept.tolist()]
    assert counts.gmacs_mean == pytest.approx(sum(costs) / 4, rel=1e-9)


def test_measuring_leaves_the_model_as_it_was(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    model = make_student(arguments={"drop_path_rate": 0.5}).train()
    batch = make_batch(model)
    first = measure_counts(model, [batch], None)
    assert model.training
    assert first == measure_counts(model, [batch], None), "drop path must be off"
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_conditioned_model_is_measured_at_the_budget(
    make_student: MakeStudent, make_batch: MakeBatch
) -> None:
    model = make_student(conditioned=True)
    batches = [make_batch(model, 8, seed=seed) for seed in range(2)]
    dense = gmacs(macs(model.cost(), (16, 16, 16)))
    low, high = (measure_counts(model, batches, share * dense) for share in (0.2, 1.5))
    assert low.keep_mean != high.keep_mean
    with torch.no_grad():
        for selector in model.selectors:
            cast(Any, selector).fc1.condition.zero_()
    low, high = (measure_counts(model, batches, share * dense) for share in (0.2, 1.5))
    assert low == high


def test_no_images_are_refused(make_student: MakeStudent) -> None:
    model = make_student()
    with pytest.raises(InputError, match="no images to measure"):
        measure_counts(model, [], None)
    with pytest.raises(InputError, match="no images to calibrate"):
        calibrate_thresholds(model, [], (3, 2, 1))


# rounding


@pytest.mark.parametrize("seed", range(20))
def test_rounded_counts_cost_what_was_measured(seed: int, make_student: MakeStudent) -> None:
    """The candidate nearest in cost is never worse than rounding each mean by itself, and within a token."""
    cost = make_student().cost()
    mean = torch.sort(
        1 + 14 * torch.rand(3, generator=torch.Generator().manual_seed(seed)), descending=True
    ).values
    means = tuple(mean.tolist())
    counts = Counts(means, macs_of(cost, means) / 1e9, 100)
    found = round_counts(cost, counts)
    assert all(abs(k - m) < 1 for k, m in zip(found, means, strict=True))
    naive = tuple(round(m) for m in means)
    assert abs(macs(cost, found) / 1e9 - counts.gmacs_mean) <= abs(
        macs(cost, naive) / 1e9 - counts.gmacs_mean
    )


def test_whole_means_stay(make_student: MakeStudent) -> None:
    cost = make_student().cost()
    counts = Counts((9.0, 6.0, 3.0), gmacs(macs(cost, (9, 6, 3))), 1)
    assert round_counts(cost, counts) == (9, 6, 3)


def test_rounded_counts_stay_within_the_budget_if_they_can(make_student: MakeStudent) -> None:
    cost = make_student().cost()
    budget = gmacs(macs(cost, (9, 6, 3)))
    just_above = Counts((9.4, 6.4, 3.4), budget * 1.03, 1)
    assert macs(cost, round_counts(cost, just_above)) / 1e9 > budget
    assert round_counts(cost, just_above, budget) == (9, 6, 3)
    far_above = Counts((12.5, 8.5, 6.5), budget * 1.5, 1)
    assert round_counts(cost, far_above, budget) == round_counts(cost, far_above)


def test_rounded_counts_are_possible_counts(make_student: MakeStudent) -> None:
    without_reuse = make_student(reuse=False).cost()
    falling = round_counts(without_reuse, Counts((5.6, 5.5, 5.4), 1e9, 1))
    assert falling == tuple(sorted(falling, reverse=True))
    cost = make_student().cost()
    assert round_counts(cost, Counts((0.2, 16.0, 0.9), 0.0, 1)) == (1, 16, 1)


# thresholds


@pytest.mark.parametrize("structure", [{}, {"reuse": False}, {"selector": "dynamicvit"}], ids=str)
@pytest.mark.parametrize("keep", [(9, 6, 3), (16, 5, 4), (12, 12, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_adaptive_inference_keeps_the_counts_on_average(
    name: str,
    keep: tuple[int, ...],
    structure: dict[str, Any],
    make_student: MakeStudent,
    make_batch: MakeBatch,
) -> None:
    model = make_student(name, **structure).eval()
    batches = [make_batch(model, count, seed=seed) for seed, count in enumerate((8, 8, 4))]
    thresholds = calibrate_thresholds(model, batches, keep)
    found = adaptive_counts(model, batches, thresholds)
    assert found.mean(dim=0).tolist() == pytest.approx(list(keep), abs=0.051)  # one token of all 20 images
    assert found.min() >= 1
    if keep == (9, 6, 3):
        assert found.std(dim=0).max() > 0.5, "every image decides for itself"


def test_thresholds_are_those_of_the_reference_images(
    make_student: MakeStudent, make_batch: MakeBatch
) -> None:
    """Where no image has all its scores below the cut, both calibrations mean the same."""
    model = make_student().eval()
    batch = make_batch(model, 6)
    found = calibrate_thresholds(model, [batch], (11, 10, 9))
    expected = thresholds_on(model, batch.images.numpy(), (11, 10, 9), lambda count: None)
    assert found == pytest.approx(expected, abs=1e-5)


def test_batches_do_not_matter(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    model = make_student().eval()
    whole = make_batch(model, 6)
    parts = [Batch(*tensors) for tensors in zip(*(tensor.split(2) for tensor in whole), strict=True)]
    expected = calibrate_thresholds(model, [whole], (9, 6, 3))
    assert calibrate_thresholds(model, parts, (9, 6, 3)) == pytest.approx(expected, abs=1e-5)


def test_what_can_be_gone_through_only_once_is_refused(
    make_student: MakeStudent, make_batch: MakeBatch
) -> None:
    model = make_student()
    batch = make_batch(model)
    with pytest.raises(ValueError, match="several times"):
        calibrate_thresholds(model, iter([batch]), (3, 2, 1))

    class Shrinking:
        left = 3

        def __iter__(self) -> Any:
            self.left -= 1
            return iter([batch] * self.left)

    with pytest.raises(ValueError, match="same 8 images in every pass, found 4"):
        calibrate_thresholds(model, Shrinking(), (3, 2, 1))
