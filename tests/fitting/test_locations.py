"""Where selections happen: candidates of every depth, what is out of reach, and the choice by measurement."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tofe_export.budget import gmacs, macs, printed
from tofe_export.calibration.divergence import Judge
from tofe_export.errors import BudgetError, InputError
from tofe_export.fitting import locations
from tofe_export.fitting.locations import candidates, choose, moved, within_reach
from tofe_export.fitting.modules import fit_modules, signal_of
from tofe_export.fitting.original import First, Original
from tofe_export.keep import solve
from tofe_export.model.tofe import ToFe

Make = Callable[..., ToFe]
Images = Callable[..., list[Tensor]]


def budget_of(model: ToFe, keep: tuple[int, ...] = (6, 4, 3)) -> float:
    return float(printed(gmacs(macs(model.cost(), keep))))


def test_candidates_begin_with_the_default() -> None:
    assert candidates(12, (3, 6, 9)) == [(3, 6, 9), (2, 5, 8), (1, 4, 8), (3, 7), (2, 7), (1, 6)]
    assert candidates(8, (2, 4, 6)) == [(2, 4, 6), (1, 3, 5), (2, 5), (1, 4)]


@pytest.mark.parametrize("depth", range(4, 41))
def test_candidates_fit_every_depth(depth: int) -> None:
    default = tuple(depth * stage // 4 for stage in (1, 2, 3))
    found = candidates(depth, default)
    assert found[0] == default
    assert len(set(found)) == len(found) > 1
    for places in found:
        assert list(places) == sorted(set(places))
        assert 1 <= places[0] <= places[-1] < depth


def test_an_early_start_reaches_budgets_that_a_late_one_does_not(make_model: Make) -> None:
    model = make_model(locations=(3,))
    least = float(printed(gmacs(macs(moved(model, (1,), 0).cost(), (1,)))))
    assert within_reach(model, [(3,), (1,)], least) == [(1,)]
    for wrong in (1e-4, 99.0):
        with pytest.raises(BudgetError, match=f"reaches {printed(least)} to"):
            within_reach(model, [(3,), (1,)], wrong)


def test_the_least_divergence_is_taken(make_model: Make, make_images: Images) -> None:
    model = make_model()
    places = [(3,), (1, 2, 3), (1, 2)]
    budget = budget_of(moved(model, (3,), 0), (8,))
    said: list[str] = []
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    choice = choose(model, places, make_images(model), budget, say=said.append)
    assert list(choice.tried) == places
    assert choice.tried[choice.locations] == min(choice.tried.values())
    assert len(set(choice.tried.values())) == 3
    assert said == [
        "locations: before blocks 3",
        "locations: before blocks 1, 2, 3",
        "locations: before blocks 1, 2",
    ]
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    assert choice.to_json()["tried"]["1/2"] == choice.tried[1, 2]


def test_a_candidate_is_worth_its_best_way_from_fresh_modules(
    make_model: Make, make_images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locations, "FITTED_ON", 32)
    model, images = make_model(), make_images(make_model())
    budget = budget_of(model)
    choice = choose(model, [(1, 2, 3), (1, 2)], images, budget)
    original, losses = Original(model.backbone), list[float]()
    for way in locations.WAYS:
        fresh = moved(model, (1, 2), 0)
        keep = solve(fresh.cost(), budget).keep
        signal = signal_of(way, fresh, original, images, 32, 0)
        fit_modules(fresh, original, images, keep, way, signal, 32, 0)
        with Judge(fresh, First(images, 256), original.answer) as judge:
            losses.append(judge.judge([keep])[0].divergence)
    assert choice.tried[1, 2] == pytest.approx(min(losses), rel=1e-5)


def test_where_there_is_nothing_to_choose_nothing_is_measured(make_model: Make) -> None:
    model = make_model()
    budget = budget_of(model)
    choice = choose(model, [(1, 2, 3)], [], budget)
    assert (choice.locations, choice.tried) == ((1, 2, 3), {})
    with pytest.raises(InputError, match="no images"):
        choose(model, [(1, 2, 3), (1, 2)], [], budget)


def test_a_moved_model_shares_the_backbone_and_draws_its_modules_for_the_seed(make_model: Make) -> None:
    model = make_model(selector="dynamicvit", reuse=False)
    state = torch.get_rng_state()
    first, second, other = (moved(model, (1, 3), seed) for seed in (0, 0, 1))
    assert torch.get_rng_state().equal(state)
    assert first.backbone is model.backbone
    assert (first.structure.selector, first.structure.reuse) == ("dynamicvit", False)
    assert first.structure.locations == (1, 3)
    pairs = zip(first.selectors.parameters(), second.selectors.parameters(), strict=True)
    assert all(a.equal(b) for a, b in pairs)
    pairs = zip(first.selectors.parameters(), other.selectors.parameters(), strict=True)
    assert not all(a.equal(b) for a, b in pairs)
