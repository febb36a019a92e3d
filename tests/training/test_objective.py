"""ToFe's objective on whole small models: which terms there are, and where their gradients go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tofe_export.budget import dense_macs, macs, printed
from tofe_export.errors import InputError, UsageError
from tofe_export.model.masked import Choose, masked_forward, sampled
from tofe_export.model.selector import MlpSelector
from tofe_export.model.tofe import ToFe
from tofe_export.training import tofe_objective
from tofe_export.training.batch import Batch, Step
from tofe_export.training.losses import classification_loss, distillation_loss
from tofe_export.training.objective import Terms
from tofe_export.training.recipe import Recipe
from tofe_export.training.teacher import Teacher
from tofe_export.training.tofe_objective import ToFeObjective, start_dense

CLASSES = 5
MakeStudent = Callable[..., ToFe]
MakeBatch = Callable[..., Batch]
NAMES = ("deit_tiny_patch16_224", "lvvit_s")


def target(model: ToFe, share: float = 0.5) -> float:
    return share * dense_macs(model.cost()) / 1e9


def step_of(model: ToFe, share: float = 0.5) -> Step:
    return Step(0, 0.0, target(model, share))


def last_layers(model: ToFe) -> list[nn.Linear]:
    return [cast(MlpSelector, selector).fc3 for selector in model.selectors]


def total(terms: Terms) -> Tensor:
    return torch.stack(list(terms.losses.values())).sum()


def objective_of(model: ToFe, **recipe: Any) -> ToFeObjective:
    return ToFeObjective(model, Recipe(**recipe), CLASSES)


# gradients


@pytest.mark.parametrize(
    "structure",
    [
        {},
        {"selector": "dynamicvit", "approximator": "depthwise"},
        {"approximator": "block"},
        {"reuse": False},
        {"conditioned": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(
    name: str, structure: dict[str, Any], make_student: MakeStudent, make_batch: MakeBatch
) -> None:
    model = make_student(name, **structure)
    objective = objective_of(model, distill=0.5, budget_control="multiplier").train()
    total(objective(make_batch(model), step_of(model, 0.4))).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        no_attention_to_bias = "qkv" in parameter_name or "k_norm" in parameter_name
        assert no_attention_to_bias or parameter.grad.abs().max() > 0, parameter_name


@pytest.mark.parametrize(
    ("term", "selectors", "approximators"),
    [("cls", True, True), ("apr", True, True), ("budget", True, True), ("distill", True, True)],
)
def test_each_term_reaches_the_modules(
    term: str, selectors: bool, approximators: bool, make_student: MakeStudent, make_batch: MakeBatch
) -> None:
    model = make_student()
    terms = objective_of(model, distill=0.5)(make_batch(model), step_of(model))
    terms.losses[term].backward()

    def reached(module: nn.Module) -> bool:
        return any(p.grad is not None and bool(p.grad.abs().max() > 0) for p in module.parameters())

    assert reached(model.selectors[0]) == selectors
    assert reached(model.approximators[0]) == approximators
    assert reached(model.backbone)


def test_no_gradient_reaches_the_teacher(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    model = make_student()
    objective = objective_of(model, distill=0.5).train()
    assert objective.teacher is not None
    before = {name: value.clone() for name, value in objective.teacher.backbone.state_dict().items()}
    total(objective(make_batch(model), step_of(model))).backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    for name, parameter in objective.teacher.backbone.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])
        assert not torch.equal(parameter, model.backbone.get_parameter(name)) or parameter.numel() == 0
    assert not objective.teacher.backbone.training
    assert {id(p) for p in objective.parameters()} == {id(p) for p in model.parameters()}
    assert all(name.startswith("student.") for name in objective.state_dict())


def soft(noise: Tensor, tau: float) -> Choose:
    return lambda scores, stage: ((scores + noise[:, stage]) / tau).sigmoid()


@pytest.mark.parametrize("group", ["selectors", "approximators", "backbone"])
@pytest.mark.parametrize(
    "recipe",
    [
        {"lambda_apr": 0, "lambda_budget": 0},
        {"lambda_cls": 0, "lambda_budget": 0},
        {"lambda_cls": 0, "lambda_apr": 0},
        {
            "lambda_cls": 0,
            "lambda_apr": 0,
            "lambda_budget": 1e6,
            "budget_mean": "sample",
            "budget_unit": "gmacs",
        },
        {"lambda_cls": 0, "lambda_apr": 0, "lambda_budget": 0, "distill": 1.0},
        {"lambda_cls": 0, "lambda_apr": 0, "ratios": (0.5, 0.25, 0.125)},
        {"distill": 0.5},
    ],
    ids=lambda recipe: " ".join(f"{key}={value}" for key, value in recipe.items()),
)
def test_gradient_of_the_whole_objective(
    recipe: dict[str, Any],
    group: str,
    make_student: MakeStudent,
    make_batch: MakeBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A central difference along one random direction in float64, masks replaced by their soft samples."""
    monkeypatch.setattr(tofe_objective, "sampled", soft)
    model = make_student(arguments={"embed_dim": 24}).double()
    objective = objective_of(model, **recipe).eval()
    batch = make_batch(model, 2)
    batch = batch._replace(images=batch.images.double(), noise=batch.noise.double())
    step = step_of(model)
    parameters = list(getattr(model, group).parameters())
    random = torch.Generator().manual_seed(0)
    drawn = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]
    length = float(torch.stack([d.square().sum() for d in drawn]).sum().sqrt())
    direction = [d / length for d in drawn]

    def moved(distance: float) -> float:
        with torch.no_grad():
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.add_(distance * d)
            value = float(total(objective(batch, step)))
            for parameter, d in zip(parameters, direction, strict=True):
                parameter.sub_(distance * d)
        return value

    h = 1e-4
    numerical = (moved(h) - moved(-h)) / (2 * h)
    gradients = torch.autograd.grad(total(objective(batch, step)), parameters, allow_unused=True)
    found = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True) if g is not None)
    assert abs(numerical) > 1e-6, "this direction would prove nothing"
    assert found == pytest.approx(numerical, rel=1e-5)


# Gumbel, Eq. 8-9


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_sampling_is_hard_gumbel_softmax(tau: float) -> None:
    """Logistic noise on z0 - z1 is Gumbel noise on both: same mask, same straight-through gradient."""
    logits = torch.randn(4, 16, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    weights = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    gumbels = -torch.empty_like(logits).exponential_().log()
    torch.manual_seed(2)
    expected = functional.gumbel_softmax(logits.log_softmax(dim=-1), tau=tau, hard=True)[..., 0]
    noise = (gumbels[..., 0] - gumbels[..., 1])[:, None]
    found = sampled(noise, tau)(logits[..., 0] - logits[..., 1], 0)
    assert found.unique().tolist() == [0, 1]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    (of_ours,) = torch.autograd.grad((weights * found).sum(), logits)
    (of_theirs,) = torch.autograd.grad((weights * expected).sum(), logits)
    torch.testing.assert_close(of_ours, of_theirs, rtol=1e-4, atol=1e-6)


# the teacher


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_teacher_stops_where_nothing_is_recovered_any_more(
    name: str, output: bool, make_student: MakeStudent, make_batch: MakeBatch
) -> None:
    model = make_student(name, {"depth": 6}, locations=(1, 3, 4)).eval()
    teacher, images = Teacher(model.backbone, (3, 4), output=output), make_batch(model).images
    entered: dict[int, Tensor] = {}
    for index, block in enumerate(teacher.backbone.blocks):
        block.register_forward_pre_hook(
            lambda _, arguments, index=index: entered.update({index: arguments[0]})
        )
    taught = teacher(images)
    assert sorted(entered) == (list(range(6)) if output else [0, 1, 2, 3])
    x = model.backbone.embed(images)
    for index, block in enumerate(model.backbone.blocks):
        if index in (3, 4):
            torch.testing.assert_close(taught.tokens[(3, 4).index(index)], x[:, 1:])
        x = block(x)
    if output:
        assert taught.output is not None
        torch.testing.assert_close(taught.output, model.backbone.dense(images))
    else:
        assert taught.output is None


def test_no_teacher_where_none_is_needed(make_student: MakeStudent) -> None:
    assert objective_of(make_student(reuse=False)).teacher is None
    assert objective_of(make_student(), lambda_apr=0).teacher is None
    assert objective_of(make_student(locations=(2,))).teacher is None
    distilled = objective_of(make_student(reuse=False), distill=0.5).teacher
    assert distilled is not None
    assert distilled.locations == ()


# terms


def test_terms_are_what_they_say(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    """With K = N by huge noise nothing is frozen: every term is known."""
    model = make_student().eval()
    batch = make_batch(model)
    objective = objective_of(model, distill=0.5, lambda_cls=3.0, lambda_budget=7.0)
    with torch.no_grad():
        for block in model.backbone.blocks:  # the student has moved on, the teacher has not
            cast(Any, block).mlp.fc2.bias.add_(0.1)
    terms = objective(batch._replace(noise=torch.full_like(batch.noise, 1e4)), step_of(model, 0.5))
    assert set(terms.losses) == {"cls", "apr", "distill", "budget"}
    assert objective.teacher is not None
    output = model.backbone.dense(batch.images)
    cls = classification_loss(output, batch.targets)
    distilled = distillation_loss(output, objective.teacher.backbone.dense(batch.images))
    torch.testing.assert_close(terms.losses["cls"], 3 * cls, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms.losses["distill"], 0.5 * distilled, rtol=1e-3, atol=1e-5)
    assert terms.losses["apr"] == 0
    full = macs(model.cost(), (16, 16, 16))
    error = full / dense_macs(model.cost()) - 0.5
    assert float(terms.losses["budget"].detach()) == pytest.approx(7 * error**2, rel=1e-5)
    assert float(terms.logs["gmacs"]) == pytest.approx(full / 1e9, rel=1e-6)
    assert [float(terms.logs[f"keep_{s}"]) for s in (1, 2, 3)] == [1, 1, 1]
    torch.testing.assert_close(terms.logs["raw_cls"], cls, rtol=1e-4, atol=1e-5)
    assert float(terms.logs["raw_budget_batch"]) == pytest.approx(error**2, rel=1e-5)
    assert not any(value.requires_grad for value in terms.logs.values())


def test_logged_shares_and_cost_are_those_of_the_masks(
    make_student: MakeStudent, make_batch: MakeBatch
) -> None:
    model = make_student(reuse=False).eval()
    batch = make_batch(model)
    terms = objective_of(model)(batch, step_of(model))
    masked = masked_forward(model, batch.images, sampled(batch.noise))
    kept = torch.stack([stage.mask.sum(dim=1) for stage in masked.stages], dim=1).long()  # (B, S)
    shares = [float(terms.logs[f"keep_{s}"]) for s in (1, 2, 3)]
    assert shares == pytest.approx((kept.float().mean(dim=0) / 16).tolist())
    costs = [macs(model.cost(), row) for row in kept.tolist()]
    assert float(terms.logs["gmacs"]) == pytest.approx(sum(costs) / len(costs) / 1e9, rel=1e-6)


def test_terms_stay_float32_under_bfloat16(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    model = make_student()
    objective, batch = objective_of(model, distill=0.5), make_batch(model)
    exact = objective(batch, step_of(model))
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(batch, step_of(model))
    assert {value.dtype for value in terms.losses.values()} == {torch.float32}
    total(terms).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for name, value in exact.losses.items():
        torch.testing.assert_close(terms.losses[name], value, rtol=0.3, atol=0.1)


def test_without_a_budget_there_is_no_budget_term(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    model = make_student()
    terms = objective_of(model)(make_batch(model), Step(0, 0.0, None))
    assert set(terms.losses) == {"cls", "apr"}


def test_fixed_ratios_take_the_budgets_place(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    model = make_student()
    batch = make_batch(model)
    recipe = {"ratios": (0.5, 0.25, 0.125), "budget_control": "multiplier"}
    terms = objective_of(model, **recipe)(batch, Step(0, 0.0, None))
    shares = torch.stack([terms.logs[f"keep_{s}"] for s in (1, 2, 3)])
    expected = 100 * (shares - torch.tensor([0.5, 0.25, 0.125])).square().mean()
    torch.testing.assert_close(terms.losses["budget"].detach(), expected)
    assert "multiplier" not in terms.losses


def test_the_paper_s_unit_has_the_paper_s_weight(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    model, gmacs = make_student(), dense_macs(make_student().cost()) / 1e9
    batch = make_batch(model)
    ratio = objective_of(model)(batch, step_of(model)).losses["budget"]
    paper = objective_of(model, budget_unit="gmacs")(batch, step_of(model)).losses["budget"]
    torch.testing.assert_close(paper / (5 * gmacs**2), ratio / 100, rtol=1e-4, atol=0)


def test_the_global_mean_enters_the_budget(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    """Another process whose images meet the budget halves the mean error."""
    model = make_student()
    batch, step = make_batch(model), step_of(model, 0.3)
    alone = ToFeObjective(model, Recipe(), CLASSES)(batch, step).losses["budget"]
    halved = ToFeObjective(model, Recipe(), CLASSES, lambda x: x / 2)(batch, step).losses["budget"]
    torch.testing.assert_close(halved, alone / 4)


def test_a_conditioned_student_is_told_the_budget(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    for conditioned in (True, False):
        model = make_student(conditioned=conditioned).eval()
        objective, batch = objective_of(model), make_batch(model)
        low, high = (objective(batch, step_of(model, share)).logs["raw_cls"] for share in (0.3, 0.9))
        assert torch.equal(low, high) != conditioned


# groups, multipliers, start, refusals


def test_groups_partition_the_student(make_student: MakeStudent) -> None:
    model = make_student(approximator="block")
    groups = objective_of(model).groups()
    ids = [id(p) for group in groups.values() for p in group]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in groups["backbone"]} == {id(p) for p in model.backbone.parameters()}


def test_the_multiplier_integrates_the_relative_error(
    make_student: MakeStudent, make_batch: MakeBatch
) -> None:
    model = make_student()
    objective = objective_of(model, budget_control="multiplier", multiplier_rate=0.1)
    dense, budget = dense_macs(model.cost()) / 1e9, target(model)
    step, batch = step_of(model), make_batch(model)
    first = objective(batch, step)
    assert first.losses["multiplier"] == 0
    objective.after_step({"gmacs": budget + 0.2 * dense}, step)
    objective.after_step({"gmacs": budget - 0.05 * dense}, step)
    objective.after_step({"gmacs": 9.0}, Step(0, 0.0, None))
    key = f"multiplier {printed(budget)}"
    assert objective.state() == {key: pytest.approx(0.1 * 100 * 0.15)}
    error = (float(first.logs["gmacs"]) - budget) / dense
    terms = objective(batch, step)
    assert float(terms.losses["multiplier"].detach()) == pytest.approx(1.5 * error, rel=1e-4)
    assert objective(batch, step_of(model, 0.7)).losses["multiplier"] == 0, "one multiplier per budget"
    resumed = objective_of(model, budget_control="multiplier")
    resumed.load_state(objective.state())
    assert torch.equal(resumed(batch, step).losses["multiplier"], terms.losses["multiplier"])


def test_the_multiplier_does_not_wind_up(make_student: MakeStudent) -> None:
    model = make_student()
    for unit in ("ratio", "gmacs"):
        dense = dense_macs(model.cost()) / 1e9
        weight = 100.0 if unit == "ratio" else 5 * dense**2
        objective = objective_of(model, budget_control="multiplier", budget_unit=unit, multiplier_rate=0.5)
        for error, expected in ((0.9, 0.45), (0.9, 0.9), (0.9, 1.0), (-0.6, 0.7), (-9.0, -1.0)):
            objective.after_step({"gmacs": target(model) + error * dense}, step_of(model))
            assert list(objective.state().values()) == [pytest.approx(expected * weight)]


def test_without_control_there_is_no_multiplier(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    model = make_student()
    objective = objective_of(model)
    objective.after_step({"gmacs": 1.0}, step_of(model))
    assert objective.state() == {}
    assert "multiplier" not in objective(make_batch(model), step_of(model)).losses


def test_start_dense_sets_the_log_odds(make_student: MakeStudent, make_batch: MakeBatch) -> None:
    model = make_student()
    for layer in last_layers(model):
        nn.init.zeros_(layer.weight)
    start_dense(model, 2.0)
    batch = make_batch(model)
    for stage in masked_forward(model, batch.images, sampled(batch.noise)).stages:
        torch.testing.assert_close(stage.scores, torch.full_like(stage.scores, 2.0))
    objective_of(model)
    assert last_layers(model)[1].bias.tolist() == [1.0, -1.0], "without a bias asked for, none is set"
    objective_of(model, keep_bias=1.0)
    assert last_layers(model)[1].bias.tolist() == [0.5, -0.5]


def test_refusals(make_student: MakeStudent) -> None:
    with pytest.raises(InputError, match="predicts 5 classes, the training needs 7"):
        ToFeObjective(make_student(), Recipe(), 7)
    with pytest.raises(UsageError, match="expected 3 keep ratios"):
        objective_of(make_student(), ratios=(0.5,))
