"""Each loss term: the formula written out by hand, and its gradient against finite differences.

Straight-through masks have no finite difference, so gradients are checked on soft ones, sigmoid(scores).
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from tofe_export import budget
from tofe_export.model.masked import MaskedStage
from tofe_export.model.tofe import ToFe
from tofe_export.training import losses

B, N, D, C, S = 3, 4, 5, 6, 3
MakeStudent = Callable[..., ToFe]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def leaves(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [draw(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]


def check_gradient(loss: Callable[..., Tensor], *inputs: Tensor) -> None:
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


def stages_of(scores: Tensor, recovered: Tensor) -> list[MaskedStage]:
    """Soft stages from scores (S, B, N) and recovered tokens (S - 1, B, N, D)."""
    tokens = [*recovered, None]
    return [MaskedStage(z, z.sigmoid(), tokens[s]) for s, z in enumerate(scores)]


# classification, Eq. 11


def test_classification_loss_of_indices_and_of_probabilities() -> None:
    logits = draw(B, C)
    picked = -logits.log_softmax(dim=-1)[torch.arange(B), torch.tensor([0, 2, 5])]
    indices = torch.tensor([0, 2, 5])
    torch.testing.assert_close(losses.classification_loss(logits, indices), picked.mean())
    one_hot = torch.nn.functional.one_hot(indices, C).float()
    torch.testing.assert_close(losses.classification_loss(logits, one_hot), picked.mean())
    smooth = 0.9 * one_hot.double() + 0.1 / C
    expected = -(smooth * logits.log_softmax(dim=-1)).sum(dim=1).mean()
    torch.testing.assert_close(losses.classification_loss(logits, smooth), expected)


def test_classification_loss_is_float32_under_bfloat16() -> None:
    loss = losses.classification_loss(draw(B, C).bfloat16(), torch.zeros(B, dtype=torch.long))
    assert loss.dtype == torch.float32


def test_classification_gradient() -> None:
    targets = draw(B, C).softmax(dim=-1)
    check_gradient(lambda logits: losses.classification_loss(logits, targets), *leaves((B, C)))


# approximation, Eq. 10


def test_approximation_loss_by_hand() -> None:
    """Two stages, the second recovers nothing; image 0 freezes tokens 1 and 3, image 1 all, image 2 none."""
    mask = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    recovered, taught = draw(B, N, D).float(), draw(B, N, D, seed=9).float()
    squared = (recovered - taught) ** 2
    expected = (squared[0, [1, 3]].mean() + squared[1].mean() + 0.0) / 3
    stages = [MaskedStage(mask, mask, recovered), MaskedStage(mask, mask, None)]
    torch.testing.assert_close(losses.approximation_loss(stages, [taught]), expected)


def test_approximation_loss_sums_stages_and_is_blind_to_kept_tokens() -> None:
    mask = torch.tensor([[1.0, 0, 1, 0]]).expand(B, N)
    recovered, taught = draw(B, N, D), draw(B, N, D, seed=9)
    stage = MaskedStage(mask, mask, recovered)
    once = losses.approximation_loss([stage], [taught])
    torch.testing.assert_close(losses.approximation_loss([stage, stage], [taught, taught]), 2 * once)
    elsewhere = recovered.clone()
    elsewhere[:, [0, 2]] += 100
    moved = losses.approximation_loss([MaskedStage(mask, mask, elsewhere)], [taught])
    torch.testing.assert_close(moved, once)


def test_approximation_loss_is_zero_where_nothing_is_frozen_or_recovered() -> None:
    ones = torch.ones(B, N, requires_grad=True)
    stage = MaskedStage(ones, ones, draw(B, N, D).float())
    loss = losses.approximation_loss([stage], [draw(B, N, D, seed=9).float()])
    assert loss == 0
    (gradient,) = torch.autograd.grad(loss, ones)
    assert gradient.isfinite().all()
    assert losses.approximation_loss([MaskedStage(ones, ones, None)], []) == 0


def test_approximation_loss_wants_a_teacher_per_recovering_stage() -> None:
    ones = torch.ones(B, N)
    stages = [MaskedStage(ones, ones, draw(B, N, D)), MaskedStage(ones, ones, None)]
    with pytest.raises(ValueError, match="1 recovering stages, found 2"):
        losses.approximation_loss(stages, [draw(B, N, D)] * 2)


def test_approximation_gradient() -> None:
    taught = [draw(B, N, D, seed=20 + s) for s in range(S - 1)]
    check_gradient(
        lambda scores, recovered: losses.approximation_loss(stages_of(scores, recovered), taught),
        *leaves((S, B, N), (S - 1, B, N, D)),
    )


# cost and budget, Eq. 13-14


@pytest.mark.parametrize("structure", [{}, {"reuse": False}, {"selector": "dynamicvit"}], ids=str)
@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "lvvit_s"])
def test_cost_per_image_is_the_papers_account(
    name: str, structure: dict[str, Any], make_student: MakeStudent
) -> None:
    cost = make_student(name, **structure).cost()
    keeps = [(9, 6, 3), (16, 16, 16), (1, 1, 1), (12, 5, 5)]
    order = torch.rand(len(keeps), S, cost.tokens, generator=torch.Generator().manual_seed(0)).argsort(-1)
    masks = [
        (order[:, s] < torch.tensor([[keep[s]] for keep in keeps])).double().requires_grad_()
        for s in range(S)
    ]
    found = losses.cost_per_image(cost, masks)
    assert found.tolist() == [budget.macs(cost, keep) for keep in keeps]
    gradients = torch.autograd.grad(found.sum(), masks)
    assert all((gradient > 0).all() for gradient in gradients), "every token costs something"
    rough = losses.cost_per_image(cost, [mask.detach().float() for mask in masks])
    torch.testing.assert_close(rough.double(), found.detach(), rtol=1e-6, atol=0)


def test_cost_wants_a_mask_per_stage(make_student: MakeStudent) -> None:
    with pytest.raises(ValueError, match="expected 3 keep counts"):
        losses.cost_per_image(make_student().cost(), [torch.ones(B, 16)] * 2)


def test_budget_loss_by_hand() -> None:
    """Costs of 1, 2 and 6 GMACs, budget 2, dense 10: errors -1, 0, 4."""
    macs = torch.tensor([1e9, 2e9, 6e9])
    errors = losses.budget_errors(macs, 2.0, 1e9)
    torch.testing.assert_close(errors, torch.tensor([-1.0, 0.0, 4.0]))
    assert losses.budget_loss(errors, "batch") == pytest.approx(1.0)  # Eq. 13: the mean error is 1
    assert losses.budget_loss(errors, "sample") == pytest.approx((1 + 0 + 16) / 3)  # Eq. 14
    relative = losses.budget_errors(macs, 2.0, 10e9)
    assert losses.budget_loss(relative) == pytest.approx(0.01)


@pytest.mark.parametrize("mean", ["batch", "sample"])
@pytest.mark.parametrize("unit", ["dense", "gmacs"])
def test_budget_gradient(unit: str, mean: losses.Mean, make_student: MakeStudent) -> None:
    cost = make_student().cost()
    scale = budget.dense_macs(cost) if unit == "dense" else 1e9
    target = 0.4 * budget.dense_macs(cost) / 1e9

    def loss(scores: Tensor) -> Tensor:
        macs = losses.cost_per_image(cost, list(scores.sigmoid()))
        return losses.budget_loss(losses.budget_errors(macs, target, scale), mean)

    (scores,) = leaves((S, B, cost.tokens))
    assert torch.autograd.gradcheck(loss, (scores,), eps=1e-6, atol=1e-9, rtol=1e-4)
    (gradient,) = torch.autograd.grad(loss(scores), scores)
    assert gradient.abs().max() > 0


def test_gradients_averaged_over_processes_are_those_of_the_whole_batch() -> None:
    """Two processes of one image each, errors 3x and 5y: what DDP averages is the global loss's gradient."""
    x, y = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    whole = losses.budget_loss(torch.stack([3 * x, 5 * y]))
    expected = torch.autograd.grad(whole, [x, y])
    parts = [torch.stack([3 * x]), torch.stack([5 * y])]
    mean = torch.stack([part.detach().mean() for part in parts]).mean()
    found = [losses.budget_loss(part, "batch", lambda local: mean) for part in parts]
    for loss in found:
        torch.testing.assert_close(loss, whole)
    averaged = torch.autograd.grad(torch.stack(found).mean(), [x, y])
    torch.testing.assert_close(averaged, expected)


def test_without_the_global_mean_that_gradient_would_be_another() -> None:
    """Negative case of the test before."""
    x, y = torch.tensor(1.0, requires_grad=True), torch.tensor(2.0, requires_grad=True)
    expected = torch.autograd.grad(losses.budget_loss(torch.stack([3 * x, 5 * y])), [x, y])
    local = torch.stack([losses.budget_loss(torch.stack([3 * x])), losses.budget_loss(torch.stack([5 * y]))])
    assert not torch.allclose(torch.stack(torch.autograd.grad(local.mean(), [x, y])), torch.stack(expected))


# fixed ratios (Table V) and distillation


def test_ratio_loss_by_hand() -> None:
    """One stage keeps 1/4 and 3/4 of its tokens, the other 1/2 and 1/2; both shall keep 3/4."""
    first = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 0]])
    second = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0]])
    found = losses.ratio_loss([first, second], (0.75, 0.75), "batch")
    assert found == pytest.approx((0.25**2 + 0.25**2) / 2)
    found = losses.ratio_loss([first, second], (0.75, 0.75), "sample")
    assert found == pytest.approx(((0.25 + 0) / 2 + 0.0625) / 2)


def test_ratio_loss_wants_a_ratio_per_stage() -> None:
    with pytest.raises(ValueError, match="expected 2 keep ratios"):
        losses.ratio_loss([torch.ones(B, N)] * 2, (0.5,))


@pytest.mark.parametrize("mean", ["batch", "sample"])
def test_ratio_gradient(mean: losses.Mean) -> None:
    check_gradient(
        lambda scores: losses.ratio_loss(list(scores.sigmoid()), (0.5, 0.25, 0.125), mean),
        *leaves((S, B, N)),
    )


def test_distillation_loss_by_hand() -> None:
    same = draw(B, C)
    torch.testing.assert_close(losses.distillation_loss(same, same), torch.zeros((), dtype=torch.float64))
    ours, theirs = torch.tensor([[0.0, 0.0]]), torch.tensor([[log(3.0), 0.0]])  # (1/2, 1/2), (3/4, 1/4)
    expected = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    assert losses.distillation_loss(ours, theirs) == pytest.approx(expected)


def test_distillation_gradient() -> None:
    taught = draw(B, C, seed=3)
    check_gradient(lambda logits: losses.distillation_loss(logits, taught), *leaves((B, C)))
