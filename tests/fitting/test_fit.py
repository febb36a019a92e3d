"""All steps together: better than fresh modules on other images, nothing that did not help, and refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tofe_export.budget import gmacs, macs, printed
from tofe_export.calibration.divergence import Judge
from tofe_export.errors import BudgetError, InputError, UsageError
from tofe_export.fitting.blocks import last_layer
from tofe_export.fitting.fit import Options, fit, starts
from tofe_export.fitting.modules import Way
from tofe_export.fitting.original import Original
from tofe_export.keep import solve
from tofe_export.model.tofe import ToFe

Make = Callable[..., ToFe]
Images = Callable[..., list[Tensor]]
FEW = (Way("update", 0.0), Way(None, 1.0))


def layer_of(model: ToFe) -> nn.Linear:
    layer = last_layer(model.backbone.blocks[2])
    assert layer is not None
    return layer


def budget_of(model: ToFe, keep: tuple[int, ...] = (6, 4, 3)) -> float:
    return float(printed(gmacs(macs(model.cost(), keep))))


@pytest.mark.parametrize(
    ("kind", "structure"),
    [
        ("timm", {}),
        ("wide lv_vit", {}),
        ("headless", {"approximator": "identity"}),
        ("timm", {"reuse": False}),
    ],
)
def test_a_fitted_model_answers_more_like_the_dense_one(
    kind: str, structure: dict[str, object], make_model: Make, make_images: Images
) -> None:
    model = make_model(kind, **structure)
    few = 2 if kind == "wide lv_vit" else 8  # batches; its convolutions take long
    original, budget = Original(model.backbone), budget_of(model)
    images, held_out, others = (make_images(model, 16 * few, seed=seed) for seed in range(3))
    keep = solve(model.cost(), budget).keep
    assert sum(keep) < 2 * model.backbone.tokens  # or there is nothing to lose
    with Judge(model, others, original.answer) as judge:
        fresh = judge.judge([keep])[0]
        found = fit(model, images, held_out, budget, Options(ways=FEW, steps=20))
        fitted = judge.judge([found.keep])[0]
    assert fitted.divergence < fresh.divergence
    assert [done.name for done in found.done] == ["modules", "counts", "blocks", "tune"]
    assert found.loss.divergence == min(done.loss.divergence for done in found.done)
    assert found.gmacs == gmacs(macs(model.cost(), found.keep))
    assert float(printed(found.gmacs)) <= budget
    assert found.row().source == "fit"
    assert found.to_json()["selectors"] in {way.name for way in FEW}


def test_the_backbone_can_stay_and_steps_can_be_left_out(make_model: Make, make_images: Images) -> None:
    model = make_model()
    before = {name: weight.clone() for name, weight in model.backbone.state_dict().items()}
    options = Options(ways=FEW, search=False, steps=0, backbone=False)
    budget = budget_of(model)
    found = fit(model, make_images(model), make_images(model, seed=1), budget, options)
    assert [done.name for done in found.done] == ["modules"]
    assert found.keep == solve(model.cost(), budget).keep
    assert all(weight.equal(before[name]) for name, weight in model.backbone.state_dict().items())
    assert found.dense == (0.0, 1.0)


def test_equal_inputs_give_equal_models(make_model: Make, make_images: Images) -> None:
    models = [make_model(), make_model()]
    for model in models:
        images, held_out = make_images(model), make_images(model, seed=1)
        fit(model, images, held_out, budget_of(model), Options(ways=FEW, steps=3))
    first, second = (model.state_dict() for model in models)
    assert all(weight.equal(second[name]) for name, weight in first.items())


def test_a_step_that_does_not_help_is_undone(
    make_model: Make, make_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tofe_export.fitting.fit as module

    def spoil(model: ToFe, *rest: object) -> list[int]:
        with torch.no_grad():
            layer_of(model).weight.mul_(-3)
        return [2]

    monkeypatch.setattr(module, "refit", spoil)
    model = make_model()
    before = layer_of(model).weight.clone()
    found = fit(
        model, make_images(model), make_images(model, seed=1), budget_of(model), Options(ways=FEW, steps=0)
    )
    assert found.done[-1].name == "blocks"
    assert not found.done[-1].taken
    assert found.done[-1].loss.divergence > found.loss.divergence
    assert layer_of(model).weight.equal(before)


def test_what_cannot_be_fitted_is_refused(make_model: Make, make_images: Images) -> None:
    model = make_model()
    images = make_images(model)
    with pytest.raises(BudgetError, match="reaches"):
        fit(model, images, images, 99.0)
    with pytest.raises(InputError, match="no images"):
        fit(model, [], images, budget_of(model))
    other = make_model(approximator="block")
    with pytest.raises(UsageError, match="bottleneck and identity"):
        fit(other, images, images, budget_of(other))
    several = make_model(conditioned=True)
    with pytest.raises(UsageError, match="one budget"):
        fit(several, images, images, budget_of(several))


def test_where_the_search_for_counts_starts() -> None:
    assert [name for name, _ in starts((5, 3, 1))] == ["as they are", "equal", "halving", "steep", "paper's"]
    assert [len(profile) for _, profile in starts((5, 3))] == [2, 2, 2, 2]


def test_tuning_that_went_too_far_is_taken_part_of_the_way(
    make_model: Make, make_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a refit brings is put at a quarter of the way that tuning seems to go."""
    import tofe_export.fitting.fit as module

    good, model = make_model(), make_model()
    images, held_out, budget = make_images(good), make_images(good, seed=1), budget_of(good)
    refitted = fit(good, images, held_out, budget, Options(ways=FEW, search=False, steps=0))
    assert refitted.done[-1].taken

    def too_far(tuned: ToFe, *rest: object) -> None:
        target = good.state_dict()
        with torch.no_grad():
            for name, weight in tuned.state_dict().items():
                weight.add_(4 * (target[name] - weight))

    monkeypatch.setattr(module, "refit", lambda *rest: [])
    monkeypatch.setattr(module, "tune", too_far)
    found = fit(model, images, held_out, budget, Options(ways=FEW, search=False, steps=1))
    done = found.done[-1]
    assert (done.name, done.taken, done.facts["part"]) == ("tune", True, 0.25)
    assert found.loss.divergence == pytest.approx(refitted.loss.divergence, rel=1e-3)
    assert layer_of(model).weight.allclose(layer_of(good).weight, atol=1e-5)
