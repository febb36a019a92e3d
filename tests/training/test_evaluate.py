"""Evaluation counts what really happened: ranks, kept and reused tokens, MACs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tofe_export.budget import dense_macs, gmacs, macs, macs_executed
from tofe_export.errors import InputError, UsageError
from tofe_export.model.freezer import AdaptiveFreezer, ForcedFreezer, StaticFreezer
from tofe_export.model.masked import above, masked_forward
from tofe_export.model.tofe import ToFe
from tofe_export.training.batch import Batch
from tofe_export.training.evaluate import Evaluation, _ranks, distribution, evaluate, in_batches
from tofe_export.training.samples import ArraySamples

MakeStudent = Callable[..., ToFe]
KEEP = (9, 6, 3)


def samples(count: int = 10) -> ArraySamples:
    images = torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(7))
    return ArraySamples(images, [index % 5 for index in range(count)], 0, (3, 16))


def run(model: ToFe, freezer: object, count: int = 10) -> Evaluation:
    return evaluate(model, in_batches(samples(count), range(count), 4), freezer)  # type: ignore[arg-type]


def test_ranks_count_better_classes_and_ties_go_to_the_lower_index() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert _ranks(logits, torch.tensor([0, 1, 0, 1])) == [0, 2, 0, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_answer_that_is_not_finite_is_wrong(bad: float) -> None:
    assert _ranks(torch.tensor([[bad, 1.0, 2.0]]), torch.tensor([0])) == [3]


def test_the_dense_model_keeps_everything(make_student: MakeStudent) -> None:
    model = make_student()
    found = run(model, None)
    with torch.inference_mode():
        best = model.eval().backbone.dense(samples().images).argmax(dim=1)
    right = best == torch.tensor(samples().targets)
    assert found.accuracy(1) == pytest.approx(float(right.float().mean()))
    assert found.accuracy(5) == 1.0
    assert (found.mode, found.kept.shape) == ("dense", (10, 0))
    np.testing.assert_array_equal(found.gmacs, gmacs(dense_macs(model.cost())))


def test_static_counts_and_both_accounts(make_student: MakeStudent) -> None:
    model = make_student()
    found = run(model, StaticFreezer(KEEP))
    np.testing.assert_array_equal(found.kept, [KEEP] * 10)
    np.testing.assert_array_equal(found.gmacs, gmacs(macs(model.cost(), KEEP)))
    np.testing.assert_array_equal(found.gmacs_executed, gmacs(macs_executed(model.cost(), KEEP, "scatter")))
    assert found.mode == "static"


def test_reused_tokens_are_those_that_the_stage_before_had_frozen(make_student: MakeStudent) -> None:
    masks = torch.zeros(3, 4, 16)
    masks[0, :, :6] = 1  # 0-5
    masks[1, :, 4:9] = 1  # 6, 7, 8 come back
    masks[2, :, :3] = 1  # all three were frozen in stage 2
    found = run(make_student(), ForcedFreezer([mask[:4] for mask in masks]), count=4)
    np.testing.assert_array_equal(found.kept, [[6, 5, 3]] * 4)
    np.testing.assert_array_equal(found.reused, [[3, 3]] * 4)


def test_without_reuse_nothing_comes_back(make_student: MakeStudent) -> None:
    found = run(make_student(reuse=False), StaticFreezer(KEEP))
    np.testing.assert_array_equal(found.reused, np.zeros((10, 2)))


@pytest.mark.parametrize("reuse", [True, False])
def test_adaptive_counts_are_those_of_the_masked_forward(make_student: MakeStudent, reuse: bool) -> None:
    model, thresholds = make_student(reuse=reuse).eval(), (0.2, -0.1, 0.3)
    found = run(model, AdaptiveFreezer(thresholds))
    with torch.inference_mode():
        stages = masked_forward(model, samples().images, above(thresholds)).stages
    expected = torch.stack([stage.mask.sum(dim=1) for stage in stages], dim=1)
    np.testing.assert_array_equal(found.kept, expected.numpy())
    assert len({tuple(row) for row in found.kept}) > 1
    prices = [gmacs(macs(model.cost(), row.kept)) for row in found.rows]
    np.testing.assert_array_equal(found.gmacs, prices)


def test_json_has_distributions_in_adaptive_mode_only(make_student: MakeStudent) -> None:
    data = run(make_student(), AdaptiveFreezer((0.2, -0.1, 0.3))).to_json()
    assert sum(data["kept_distribution"][0]["histogram"]["counts"]) == 10
    assert data["gmacs_distribution"]["mean"] == pytest.approx(data["gmacs"])
    assert "kept_distribution" not in run(make_student(), StaticFreezer(KEEP)).to_json()


def test_a_distribution_by_hand() -> None:
    found = distribution(np.arange(101, dtype=np.float64))
    assert (found["mean"], found["quantiles"]["5"], found["quantiles"]["100"]) == (50, 5, 100)
    assert found["histogram"]["edges"][0] == 0
    assert sum(found["histogram"]["counts"]) == 101


def test_unreadable_images_do_not_count(make_student: MakeStudent) -> None:
    batch = next(iter(in_batches(samples(), range(4), 4)))
    some = batch._replace(indices=torch.tensor([0, -2, 2, -4]))
    assert len(evaluate(make_student(), [some], None).rows) == 2
    none: Batch = batch._replace(indices=torch.tensor([-1, -2, -3, -4]))
    with pytest.raises(InputError, match="none that can be read"):
        evaluate(make_student(), [none], StaticFreezer(KEEP))


def test_a_headless_model_has_no_accuracy(make_student: MakeStudent) -> None:
    with pytest.raises(UsageError, match="needs a classifier"):
        run(make_student(arguments={"num_classes": 0}), None)


def test_the_model_s_mode_is_left_as_it_was(make_student: MakeStudent) -> None:
    model = make_student().train()
    run(model, None, count=2)
    assert model.training


def test_batches_can_be_gone_through_again() -> None:
    batches = in_batches(samples(), (3, 1, 2), 2, epoch=4)
    first, second = list(batches), list(batches)
    assert [batch.indices.tolist() for batch in first] == [[3, 1], [2]]
    assert torch.equal(first[1].noise, second[1].noise)
