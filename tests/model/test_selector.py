"""Selectors: one score per token, the logit difference with index 0 as keep, always in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from tofe_export.model.freezer import StageRecord, StaticFreezer
from tofe_export.model.selector import SelectorKind, create_selector
from tofe_export.model.tofe import ToFe

MakeImages = Callable[..., Tensor]
Difference = Callable[..., float]

both = pytest.mark.parametrize("kind", ["mlp", "dynamicvit"])


@pytest.fixture
def tokens() -> Tensor:
    return torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(0))


@both
def test_the_score_is_the_log_odds_of_keeping(
    kind: SelectorKind, tokens: Tensor, draw: Callable[..., None], difference: Difference
) -> None:
    selector = create_selector(kind, 48)
    draw(selector)
    keep, freeze = selector.logits(tokens).softmax(dim=-1).unbind(dim=-1)
    assert difference(selector(tokens), (keep / freeze).log()) <= 1e-5


def test_mlp_looks_at_each_token_alone(tokens: Tensor, draw: Callable[..., None]) -> None:
    selector = create_selector("mlp", 48)
    draw(selector)
    torch.testing.assert_close(selector(tokens)[:, 3:5], selector(tokens[:, 3:5]))


def test_dynamicvit_compares_with_the_mean_of_all(tokens: Tensor, draw: Callable[..., None]) -> None:
    selector: Any = create_selector("dynamicvit", 48)
    draw(selector)
    assert not torch.allclose(selector(tokens)[:, 3:5], selector(tokens[:, 3:5]))
    hidden = torch.nn.functional.gelu(selector.local(selector.norm(tokens)))
    mean = hidden[..., 24:].mean(dim=1, keepdim=True).expand(-1, 16, -1)
    hidden = torch.nn.functional.gelu(selector.fc1(torch.cat([hidden[..., :24], mean], dim=-1)))
    logits = selector.fc3(torch.nn.functional.gelu(selector.fc2(hidden)))
    torch.testing.assert_close(selector(tokens), logits[..., 0] - logits[..., 1])


def test_a_fresh_condition_changes_nothing(tokens: Tensor) -> None:
    selector: Any = create_selector("mlp", 48, conditioned=True)
    expected = selector(tokens)
    selector.set_condition(0.7)
    assert torch.equal(selector(tokens), expected)
    assert selector.fc1.condition.shape == (24,)
    assert not selector.fc1.condition.any()


@both
def test_the_condition_moves_the_first_bias(
    kind: SelectorKind, tokens: Tensor, draw: Callable[..., None]
) -> None:
    selector: Any = create_selector(kind, 48, conditioned=True)
    plain: Any = create_selector(kind, 48)
    draw(selector)
    plain.load_state_dict({k: v for k, v in selector.state_dict().items() if "condition" not in k})
    selector.set_condition(-0.5)
    assert not torch.allclose(selector(tokens), plain(tokens))
    plain.fc1.bias.data -= 0.5 * selector.fc1.condition
    assert torch.equal(selector(tokens), plain(tokens))
    plain.set_condition(9.0)  # knows no budget
    assert torch.equal(selector(tokens), plain(tokens))


@both
def test_the_condition_is_learned(kind: SelectorKind, tokens: Tensor) -> None:
    selector: Any = create_selector(kind, 48, conditioned=True)
    for b in (0.0, 0.5):
        selector.zero_grad()
        selector.set_condition(b)
        selector(tokens).sum().backward()
        torch.testing.assert_close(selector.fc1.condition.grad, b * selector.fc1.bias.grad)
    assert selector.fc1.condition.grad.abs().max() > 0


@both
def test_masked_tokens_are_as_if_they_were_not_there(
    kind: SelectorKind, tokens: Tensor, draw: Callable[..., None]
) -> None:
    selector = create_selector(kind, 48)
    draw(selector)
    alive = torch.zeros(2, 16)
    alive[:, [2, 3, 11]] = 1
    torch.testing.assert_close(selector(tokens, alive)[:, [2, 3, 11]], selector(tokens[:, [2, 3, 11]]))
    torch.testing.assert_close(selector(tokens, torch.ones(2, 16)), selector(tokens))
    keep, freeze = selector.logits(tokens, alive).unbind(dim=-1)
    torch.testing.assert_close(keep - freeze, selector(tokens, alive))
    assert selector(tokens, torch.zeros(2, 16)).isfinite().all()


def test_who_is_alive_matters_to_dynamicvit_alone(tokens: Tensor, draw: Callable[..., None]) -> None:
    for kind, differs in (("mlp", False), ("dynamicvit", True)):
        selector = create_selector(cast(SelectorKind, kind), 48)
        draw(selector)
        alive = torch.ones(2, 16)
        alive[:, :8] = 0
        alive.requires_grad_()
        found = selector(tokens, alive)
        assert (not torch.allclose(found, selector(tokens), atol=1e-3)) == differs
        assert (torch.autograd.grad(found.sum(), alive, allow_unused=True)[0] is not None) == differs


@both
def test_widths_are_the_papers(kind: SelectorKind) -> None:
    shapes = {k: tuple(v.shape) for k, v in create_selector(kind, 48).named_parameters() if v.ndim == 2}
    expected = {"fc1.weight": (24, 48), "fc2.weight": (12, 24), "fc3.weight": (2, 12)}
    assert shapes == expected | ({"local.weight": (48, 48)} if kind == "dynamicvit" else {})


@both
def test_scores_stay_float32_under_autocast(
    kind: SelectorKind, make_model: Callable[..., ToFe], make_images: MakeImages
) -> None:
    model, records = make_model(selector=kind), list[StageRecord]()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(make_images(model), StaticFreezer((9, 6, 3)), record=records)
    for record in records:
        assert record.scores.dtype == torch.float32
        assert not torch.equal(record.scores, record.scores.bfloat16().float())
