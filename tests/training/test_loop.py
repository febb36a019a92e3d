"""The loop on a model of two layers: what a step does, and what stops a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn import functional

from tofe_export.errors import CheckpointError, InputError, TrainingDiverged, UsageError, WriteError
from tofe_export.training.batch import Batch, Step
from tofe_export.training.loop import Fitted, StepReport, fit
from tofe_export.training.objective import Objective, Terms
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import ArraySamples
from tofe_export.training.session import create_accelerator
from tofe_export.training.state import read_state
from tofe_export.training.unreadable import Unreadable

CLASSES, IMAGES = 3, 26
EPOCHS, BATCH = 4, 8  # 3 steps per epoch, two images left over
STEPS = 12


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 16)
        self.head = nn.Linear(16, CLASSES)
        self.drop = nn.Dropout(0.2)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.head(self.drop(torch.tanh(self.body(images.flatten(1)))))
        return result


class TinyObjective(Objective):
    """Cross-entropy, with a memory of its steps and a term that can be told to fail."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.student = Tiny()
        self.fail_at, self.steps, self.moved = fail_at, list[Step](), 0.0
        self.seen: list[list[int]] = []

    def forward(self, batch: Batch, step: Step) -> Terms:
        self.seen.append(batch.indices.tolist())
        loss = functional.cross_entropy(self.student(batch.images), batch.targets)
        penalty = loss.new_zeros(()) + (math.nan if step.done == self.fail_at else 0.0) * loss
        return Terms({"cls": loss, "extra": penalty}, {"gmacs": loss.detach() * 2})

    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        student = self.student
        assert isinstance(student, Tiny)
        return {"modules": list(student.head.parameters()), "backbone": list(student.body.parameters())}

    def state(self) -> dict[str, float]:
        return {"moved": self.moved}

    def load_state(self, state: Mapping[str, float]) -> None:
        self.moved = state["moved"]

    def after_step(self, means: Mapping[str, float], step: Step) -> None:
        self.steps.append(step)
        self.moved += means["gmacs"]


def recipe_of(**changes: Any) -> Recipe:
    small = {"epochs": EPOCHS, "batch_size": BATCH, "lr": 1e-2, "fixed_epochs": 0, "seed": 3}
    return Recipe(**(small | changes))


def data_of(recipe: Recipe) -> ArraySamples:
    random = torch.Generator().manual_seed(1)
    images = torch.randn(IMAGES, 3, 2, 2, generator=random)
    targets = images.flatten(1).sum(1).div(2).round().clamp(-1, 1).long() + 1
    return ArraySamples(images, targets, recipe.seed, (2, 4))


Train = Callable[..., Fitted]


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate remembers precision and device for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def train() -> Train:
    def run(recipe: Recipe, objective: Objective | None = None, **arguments: Any) -> Fitted:
        accelerator = create_accelerator(recipe, cpu=True)
        return fit(objective or TinyObjective(), recipe, data_of(recipe), accelerator, **arguments)

    return run


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(10**9))
    return lambda: next(asked) >= steps


# a training


def test_loss_falls_and_every_step_is_reported(train: Train) -> None:
    reports: list[StepReport] = []
    recipe = recipe_of(epochs=40)
    fitted = train(recipe, on_step=reports.append)
    assert [report.step for report in reports] == list(range(1, 121))
    assert fitted.steps == fitted.total == reports[0].steps == 120
    assert not fitted.stopped
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert reports[2].epoch == pytest.approx(1)
    assert reports[0].lr == recipe.lr
    assert reports[-1].lr == pytest.approx(recipe.min_lr)
    assert reports[0].losses.keys() == {"cls", "extra"}
    assert reports[0].logs["gmacs"] == pytest.approx(2 * reports[0].losses["cls"])
    assert reports[0].grad_norm > 0
    assert reports[0].images_per_s > 0


def test_the_same_seed_gives_the_same_weights_and_another_one_others(train: Train) -> None:
    first = train(recipe_of()).weights
    torch.manual_seed(99)  # what the caller drew before does not matter
    assert same(first, train(recipe_of()).weights)
    assert not same(first, train(recipe_of(seed=4)).weights)


def test_each_epoch_has_its_own_order_and_only_whole_batches(train: Train) -> None:
    objective = TinyObjective()
    train(recipe_of(), objective)
    epochs = [[i for batch in objective.seen[3 * e : 3 * e + 3] for i in batch] for e in range(EPOCHS)]
    assert all(len(set(epoch)) == 24 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == EPOCHS


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_make_the_same_step(train: Train, accumulate: int) -> None:
    def losses(recipe: Recipe) -> list[float]:
        reports: list[StepReport] = []
        objective = TinyObjective()
        objective.student.drop = nn.Identity()
        fitted = train(recipe, objective, on_step=reports.append)
        assert fitted.steps == STEPS
        return [report.loss for report in reports]

    whole, parts = losses(recipe_of()), losses(recipe_of(accumulate=accumulate))
    assert parts == pytest.approx(whole, abs=1e-5)


def test_a_fixed_backbone_does_not_move_until_its_epochs_are_over(train: Train) -> None:
    start = TinyObjective().student.state_dict()
    recipe = recipe_of(fixed_epochs=2, ema=0)
    fixed = train(recipe, should_stop=stop_after(6)).weights
    assert torch.equal(fixed["body.weight"], start["body.weight"])
    assert not torch.equal(fixed["head.weight"], start["head.weight"])
    moved = train(recipe, should_stop=stop_after(7)).weights
    assert not torch.equal(moved["body.weight"], start["body.weight"])


def test_averaged_weights_are_the_warmed_up_mean_of_the_steps(train: Train) -> None:
    objective, kept = TinyObjective(), list[Tensor]()
    weight = objective.student.get_parameter("head.weight")
    fitted = train(recipe_of(ema=0.5), objective, on_step=lambda _: kept.append(weight.detach().clone()))
    mean = kept[0]
    for count, current in enumerate(kept[1:], start=1):
        decay = min(0.5, 1 - (1 + count) ** (-2 / 3))
        mean = decay * mean + (1 - decay) * current
    torch.testing.assert_close(fitted.weights["head.weight"], mean)
    last = train(recipe_of(ema=0)).weights["head.weight"]
    torch.testing.assert_close(last, kept[-1], rtol=0, atol=0)


def test_the_budget_changes_from_step_to_step(train: Train) -> None:
    objective = TinyObjective()
    train(recipe_of(epochs=20, budgets=(1.5, 2.0)), objective)
    drawn = [step.budget_gmacs for step in objective.steps]
    assert 20 < drawn.count(1.5) < 40
    assert set(drawn) == {1.5, 2.0}
    assert [step.done for step in objective.steps] == list(range(60))


def test_mixing_is_keyed_by_seed_step_micro_batch_and_process(train: Train) -> None:
    keys: list[tuple[int, ...]] = []

    def mix(batch: Batch, key: Any) -> Batch:
        keys.append(tuple(key))
        return batch._replace(images=torch.zeros_like(batch.images))

    weights = train(recipe_of(accumulate=2, epochs=1), mix=mix).weights
    assert keys == [(3, step, micro, 0) for step in range(3) for micro in range(2)]
    start = TinyObjective().student.state_dict()["body.weight"]
    decayed = weights["body.weight"] / start  # without images the weights have no gradient
    assert decayed.min() == pytest.approx(float(decayed.max()), abs=1e-5)


def test_clipping_changes_the_step_but_not_the_reported_norm(train: Train) -> None:
    free: list[StepReport] = []
    clipped: list[StepReport] = []
    loose = train(recipe_of(epochs=1), on_step=free.append)
    tight = train(recipe_of(epochs=1, clip_grad=1e-9), on_step=clipped.append)
    assert clipped[0].grad_norm == free[0].grad_norm
    assert not same(loose.weights, tight.weights)


def test_bf16_computes_the_forward_in_bf16(train: Train) -> None:
    objective, kinds = TinyObjective(), set[torch.dtype]()
    objective.student.get_submodule("head").register_forward_hook(lambda *args: kinds.add(args[2].dtype))
    fitted = train(recipe_of(precision="bf16"), objective)
    assert kinds == {torch.bfloat16}
    assert {weight.dtype for weight in fitted.weights.values()} == {torch.float32}


# stopping and resuming


@pytest.mark.parametrize("steps", [0, 4, 6, STEPS])
def test_a_stopped_and_resumed_training_ends_with_the_same_weights(
    train: Train, tmp_path: Path, steps: int
) -> None:
    recipe, path = recipe_of(accumulate=2), tmp_path / "state"
    whole = TinyObjective()
    expected = train(recipe, whole).weights
    first = train(recipe, state_path=path, should_stop=stop_after(steps))
    assert (first.steps, first.stopped) == (steps, steps < STEPS)
    objective, reports = TinyObjective(), list[StepReport]()
    resumed = train(recipe, objective, state_path=path, resume=True, on_step=reports.append)
    assert same(resumed.weights, expected)
    assert same(objective.student.state_dict(), whole.student.state_dict())
    assert objective.moved == whole.moved
    assert [report.step for report in reports] == list(range(steps + 1, STEPS + 1))
    assert objective.seen == whole.seen[2 * steps :]


def test_workers_load_the_same_batches(train: Train, tmp_path: Path) -> None:
    recipe, path = recipe_of(epochs=2), tmp_path / "state"
    expected = train(recipe).weights
    train(recipe, state_path=path, should_stop=stop_after(4), workers=1)
    assert same(train(recipe, state_path=path, resume=True, workers=1).weights, expected)


def test_a_state_is_kept_at_the_start_after_epochs_and_when_due(train: Train, tmp_path: Path) -> None:
    path, kept = tmp_path / "state", list[int]()

    def look(_: StepReport) -> None:
        kept.append(read_state(path).step)

    train(recipe_of(), state_path=path, on_step=look)
    assert kept == [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9]
    assert read_state(path).step == STEPS
    path.unlink()
    kept.clear()
    train(recipe_of(), state_path=path, on_step=look, save_every_s=0)
    assert kept == list(range(STEPS))


def test_resuming_with_other_arguments_names_each(train: Train, tmp_path: Path) -> None:
    path = tmp_path / "state"
    train(recipe_of(), state_path=path, description={"data": "cats"})
    with pytest.raises(UsageError, match=r"seed: 3 -> 5\n +lr: 0.01 -> 0.02\n +data: cats -> dogs\n"):
        train(recipe_of(lr=2e-2, seed=5), state_path=path, resume=True, description={"data": "dogs"})


def test_resuming_needs_a_whole_state(train: Train, tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(UsageError, match="nothing to resume"):
        train(recipe_of(), state_path=path, resume=True)
    with pytest.raises(UsageError, match="keeps no state file"):
        train(recipe_of(), resume=True)
    train(recipe_of(), state_path=path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        train(recipe_of(), state_path=path, resume=True)
    assert train(recipe_of(), state_path=path).steps == STEPS  # starting anew replaces it


def test_an_interrupted_training_is_not_overwritten(train: Train, tmp_path: Path) -> None:
    path = tmp_path / "state"
    train(recipe_of(), state_path=path, should_stop=stop_after(2))
    before = path.read_bytes()
    with pytest.raises(UsageError, match="after 2 steps: continue it with --resume"):
        train(recipe_of(), state_path=path)
    assert path.read_bytes() == before


def test_an_unwritable_state_fails_before_the_first_step(train: Train, tmp_path: Path) -> None:
    objective = TinyObjective()
    with pytest.raises(WriteError, match="create the folder first"):
        train(recipe_of(), objective, state_path=tmp_path / "none" / "state")
    assert objective.seen == []


# failing


def test_a_loss_that_is_not_finite_stops_before_it_does_harm(train: Train, tmp_path: Path) -> None:
    path, objective = tmp_path / "state", TinyObjective(fail_at=7)
    with pytest.raises(
        TrainingDiverged, match=r"step 8 of 12: the term extra is nan.*6 steps.*lower --lr"
    ) as info:
        train(recipe_of(), objective, state_path=path)
    assert str(path) in str(info.value)
    assert info.value.exit_code == 1
    expected = TinyObjective()
    train(recipe_of(), expected, should_stop=stop_after(7))
    assert same(objective.student.state_dict(), expected.student.state_dict())
    assert all(tensor.isfinite().all() for tensor in read_state(path).student.values())


def test_a_gradient_that_is_not_finite_stops_too(train: Train) -> None:
    class Steep(TinyObjective):
        def forward(self, batch: Batch, step: Step) -> Terms:
            terms = super().forward(batch, step)
            weight = self.student.get_parameter("head.bias")
            return terms._replace(losses={"root": (weight - weight.detach()).abs().sqrt().sum()})

    with pytest.raises(TrainingDiverged, match=r"step 1 of 12: the gradient's norm is (nan|inf)\. No state"):
        train(recipe_of(), Steep())


def test_too_many_unreadable_images_stop_the_training(train: Train, tmp_path: Path) -> None:
    recipe, path = recipe_of(), tmp_path / "state"

    class Damaged(ArraySamples):
        def __getitem__(self, key: tuple[int, int]) -> Any:
            sample = super().__getitem__(key)
            return replace(sample, index=-1 - key[1]) if key[1] in (2, 5) else sample

    samples = data_of(recipe)
    data = Damaged(samples.images, samples.targets, recipe.seed, (2, 4))

    def judge(share: float) -> Unreadable:
        return Unreadable(len(data), data.name, share)

    reports: list[StepReport] = []
    tolerant = judge(0.1)
    accelerator = create_accelerator(recipe, cpu=True)
    fit(
        TinyObjective(), recipe, data, accelerator,
        unreadable=tolerant, on_step=reports.append, state_path=path,
    )  # fmt: skip
    assert reports[-1].unreadable == 2
    assert read_state(path).unreadable == [2, 5]
    with pytest.raises(InputError, match="image 2"):
        fit(TinyObjective(), recipe, data, accelerator, unreadable=judge(0.01))


@pytest.mark.parametrize(
    ("changes", "message"), [({"batch_size": 27}, "found 26"), ({"accumulate": 3}, "divide")]
)
def test_batches_that_cannot_be_cut(train: Train, changes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(recipe_of(**changes))


def test_accelerate_is_told_to_leave_random_numbers_alone() -> None:
    accelerator = create_accelerator(recipe_of(accumulate=2), cpu=True)
    assert isinstance(accelerator, Accelerator)
    assert accelerator.rng_types == []
    assert accelerator.gradient_accumulation_steps == 2
