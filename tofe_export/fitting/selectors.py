"""Selectors that nobody trained: a lottery over the image, distilled from a signal, or both.

What a stage loses when it freezes tokens is not the sum of what each loses alone: of many that say the same,
one must stay. Ranking by importance keeps them all or none, and at low budgets it can lose more than chance
does, so which way loses least is measured each time (`fit.py`). A selector sees one token at a time, cannot
know the others, but can draw lots.

*Spread* gives each token a number that looks random and depends on its content and place: the sum of zigzags
along random directions of the whitened tokens, whose teeth are finer than the differences between neighbours.
Two layers of rectifiers hold such a function exactly but for the roundness of GELU. *Distilled* is regression
on a signal's logarithm; with spread, the target is the signal plus the lottery, so that important tokens have
more tickets.

Shapes: n images, B in a batch, N patch tokens, D width.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from tofe_export.model.selector import MlpSelector

RATE, BATCH = 3e-3, 32
TEETH = 16  # hidden units, hence kinks, per zigzag
_REACH = 3.0  # standard deviations on either side that a zigzag covers
_SHARP = 4.0  # GELU's input from one kink to the next
_LEAST = 1e-3  # share of the mean variance added to every direction: small ones are noise


@torch.no_grad()
def spread(selector: MlpSelector, tokens: Tensor, generator: torch.Generator) -> None:
    """Make the selector a lottery over tokens like (n, N, D), in place."""
    local = getattr(selector, "local", None)
    if isinstance(local, nn.Linear):  # DynamicViT's layer before: it only mixes
        _mix(local, _inputs(selector, local, tokens), generator)
    lines = max(1, min(selector.fc2.out_features // 2, selector.fc1.out_features // TEETH))
    _kinks(selector.fc1, lines, _inputs(selector, selector.fc1, tokens), generator)
    _zigzags(selector.fc2, lines, selector.fc1.out_features // lines, generator)
    selector.fc3.weight.zero_()
    selector.fc3.bias.zero_()
    for row, sign in enumerate((0.5, -0.5)):
        selector.fc3.weight[row, : 2 * lines : 2] = sign / lines**0.5  # GELU(z) - GELU(-z) = z
        selector.fc3.weight[row, 1 : 2 * lines : 2] = -sign / lines**0.5


@torch.no_grad()
def plain(selector: MlpSelector, tokens: Tensor, generator: torch.Generator) -> None:
    """Draw weights, in place, for which all directions of tokens (n, N, D) count alike: to learn from."""
    for name in ("local", "fc1", "fc2", "fc3"):
        layer = getattr(selector, name, None)
        if isinstance(layer, nn.Linear):
            _mix(layer, _inputs(selector, layer, tokens), generator)
    selector.fc3.weight.mul_(0.1)  # scores begin near 0


def distil(
    selector: MlpSelector,
    tokens: Tensor,
    signal: Tensor,
    lottery: float,
    steps: int,
    generator: torch.Generator,
) -> float:
    """Regress the selector on a signal (n, N) over tokens (n, N, D), in place; it starts as it is.

    `lottery` weighs the scores of spreading against the signal's logarithm, both of variance 1. Returns the
    share of the target's variance within images that is explained.
    """
    target = _standard(_positive(signal).log())
    if lottery:
        target = _standard(target + lottery * _standard(_scores(selector, tokens)))
    pupil = copy.deepcopy(selector).requires_grad_(True)
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=RATE, weight_decay=1e-4)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    with torch.enable_grad():
        for _ in range(steps):
            chosen = torch.randint(len(tokens), (BATCH,), generator=generator).to(tokens.device)
            loss = functional.mse_loss(_centred(pupil(tokens[chosen])), target[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plan.step()
    selector.load_state_dict(pupil.state_dict())
    rest = _centred(_scores(selector, tokens)) - target
    return 1 - float(rest.square().sum() / target.square().sum().clamp(min=1e-12))


@torch.no_grad()
def _scores(selector: MlpSelector, tokens: Tensor) -> Tensor:
    return torch.cat([cast(Tensor, selector(part)) for part in tokens.split(BATCH)])


def _inputs(selector: MlpSelector, layer: nn.Linear, tokens: Tensor) -> Tensor:
    """What the layer sees of tokens (n, N, D): (n * N, width)."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(0, 1)))
    try:
        for part in tokens.split(BATCH):
            selector.logits(part)
    finally:
        hook.remove()
    return torch.cat(seen)


def _directions(seen: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random directions (width, count) along which inputs (rows, width) have variance 1, all alike likely."""
    centred = (seen - seen.mean(dim=0)).double()
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    roots = (values.clamp(min=0) + _LEAST * values.mean().clamp(min=1e-12)).rsqrt()
    drawn = torch.randn(seen.shape[1], count, generator=generator).to(values)
    found: Tensor = (vectors * roots) @ drawn
    found = found / (centred @ found).square().mean(dim=0).sqrt().clamp(min=1e-12)
    return found.to(seen.dtype)


def _mix(layer: nn.Linear, seen: Tensor, generator: torch.Generator) -> None:
    """Give the layer random outputs of mean 0 and variance 1 on inputs (rows, width)."""
    directions = _directions(seen, layer.out_features, generator)
    layer.weight.copy_(directions.T)
    layer.bias.copy_(-(seen.mean(dim=0) @ directions))


def _kinks(layer: nn.Linear, lines: int, seen: Tensor, generator: torch.Generator) -> None:
    """Per line a random direction, and units that begin to rise at equal distances along it."""
    teeth = layer.out_features // lines
    step = 2 * _REACH / teeth
    directions = _directions(seen, lines, generator)
    phases = torch.rand(lines, 1, generator=generator)
    places = ((torch.arange(teeth) + phases) * step - _REACH).to(seen)  # (lines, teeth)
    used = lines * teeth
    layer.weight.zero_()
    layer.weight[:used] = directions.T.repeat_interleave(teeth, dim=0) * (_SHARP / step)
    start = (seen.mean(dim=0) @ directions)[:, None] + places
    layer.bias.zero_()
    layer.bias[:used] = -(start * (_SHARP / step)).flatten()


def _zigzags(layer: nn.Linear, lines: int, teeth: int, generator: torch.Generator) -> None:
    """Per line a pair of units, the zigzag and its negative, of mean 0 and variance 1; the rest is random."""
    drawn = torch.randn(layer.weight.shape, generator=generator).to(layer.weight)
    layer.weight.copy_(drawn / layer.in_features / _SHARP)
    layer.bias.zero_()
    slopes = 2.0 * (-1.0) ** torch.arange(teeth)
    slopes[0] = 1.0  # up, then down and up again
    for line in range(lines):
        for unit, sign in ((2 * line, 1.0), (2 * line + 1, -1.0)):
            layer.weight[unit] = 0.0
            part = slice(line * teeth, (line + 1) * teeth)
            layer.weight[unit, part] = (sign * 12**0.5 / _SHARP * slopes).to(layer.weight)
            layer.bias[unit] = -sign * 3**0.5


def _positive(signal: Tensor) -> Tensor:
    """The signal with its zeros raised to its smallest other value; ones where it is 0 throughout."""
    above = signal[signal > 0]
    return signal.clamp(min=float(above.amin())) if len(above) else torch.ones_like(signal)


def _centred(scores: Tensor) -> Tensor:
    """Scores (B, N) with mean 0 in each image: only differences within an image choose tokens."""
    return scores - scores.mean(dim=1, keepdim=True)


def _standard(scores: Tensor) -> Tensor:
    """Centred scores of variance 1 over all images."""
    centred = _centred(scores)
    return centred / centred.square().mean().sqrt().clamp(min=1e-12)
