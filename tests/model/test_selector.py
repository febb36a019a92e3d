"""Selectors: one score per token, the logit difference with index 0 as keep, always in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
