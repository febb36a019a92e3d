"""Selectors by lottery and by regression."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tofe_export.fitting.selectors import distil, plain, spread
from tofe_export.model.selector import SelectorKind, create_selector

WIDTH = 24


def tokens(images: int = 64, seed: int = 0) -> Tensor:
    """Tokens (images, 16, 24) whose strongest direction is 30 times as strong as the others."""
    random = torch.Generator().manual_seed(seed)
    found = torch.randn(images, 16, WIDTH, generator=random)
    found[..., 0] *= 30
    return found


@pytest.mark.parametrize("kind", ["mlp", "dynamicvit"])
def test_spreading_listens_to_weak_directions_too(kind: SelectorKind) -> None:
    x = tokens()
    torch.manual_seed(0)
    plain, fair = create_selector(kind, WIDTH), create_selector(kind, WIDTH)
    spread(fair, x, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in plain.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=WIDTH**-0.5)

        def heard(selector: torch.nn.Module) -> float:
            """How much scores depend on the strongest direction alone, as squared correlation with a fit."""
            scores = selector(x).flatten()
            first = torch.stack([x[..., 0].flatten() ** power for power in range(4)], dim=1)
            first = first / first.std(dim=0).clamp(min=1)
            left = scores - first @ torch.linalg.lstsq(first, scores[:, None]).solution[:, 0]
            return 1 - float(left.square().sum() / (scores - scores.mean()).square().sum())

        assert heard(fair) < 0.5 * heard(plain)


def test_neighbours_draw_different_lots() -> None:
    """Tokens a quarter of a standard deviation apart are as good as unrelated; the scores are a lottery's."""
    x, selector = tokens(), create_selector("mlp", WIDTH).requires_grad_(False)
    spread(selector, x, torch.Generator().manual_seed(1))
    scores = selector(x)
    assert abs(float(scores.mean())) < 0.4
    assert 0.6 < float(scores.std()) < 1.4
    moved = x + 0.25 * x.std(dim=(0, 1)) * torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    both = torch.stack([scores.flatten(), selector(moved).flatten()])
    assert float(torch.corrcoef(both)[0, 1]) < 0.5
    again = torch.stack([scores.flatten(), selector(x + 1e-4 * (moved - x)).flatten()])
    assert float(torch.corrcoef(again)[0, 1]) > 0.99


def test_draws_differ_and_repeat() -> None:
    x, made = tokens(), [create_selector("mlp", WIDTH) for _ in range(3)]
    for selector, seed in zip(made, (1, 1, 2), strict=True):
        spread(selector, x, torch.Generator().manual_seed(seed))
    scores = [selector(x) for selector in made]
    assert scores[0].equal(scores[1])
    assert not scores[0].allclose(scores[2])


def test_a_signal_in_the_tokens_is_found_and_one_that_is_not_is_not() -> None:
    x, random = tokens(), torch.Generator().manual_seed(0)
    for signal, least, most in (
        (x[..., 3].exp(), 0.6, 1.0),
        (torch.rand(64, 16, generator=random) + 0.1, -1.0, 0.5),
    ):
        selector = create_selector("mlp", WIDTH).requires_grad_(False)
        plain(selector, x, random)
        share = distil(selector, x, signal, 0.0, 300, random)
        assert least < share <= most
    assert not any(parameter.requires_grad for parameter in selector.parameters())


def test_the_lottery_keeps_unimportant_tokens_in_the_game() -> None:
    x = tokens()
    signal = x[..., 3].exp()

    def kept_of_the_lower_half(lottery: float) -> float:
        selector, random = create_selector("mlp", WIDTH), torch.Generator().manual_seed(0)
        (spread if lottery else plain)(selector, x, random)
        distil(selector, x, signal, lottery, 300, random)
        best = selector(x).argsort(dim=1, descending=True)[:, :8]
        return float((signal.gather(1, best) < signal.median(dim=1, keepdim=True).values).float().mean())

    assert kept_of_the_lower_half(0.0) < 0.2 < kept_of_the_lower_half(2.0)


def test_a_signal_of_zeros_is_no_error() -> None:
    x, random = tokens(8), torch.Generator().manual_seed(0)
    selector = create_selector("mlp", WIDTH)
    spread(selector, x, random)
    distil(selector, x, torch.zeros(8, 16), 0.0, 3, random)
    assert bool(selector(x).isfinite().all())
