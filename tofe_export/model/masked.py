"""The forward that is trained: Eq. 16-18, where freezing is a mask and gradients reach the selectors.

All N tokens stay in the tensor, so that every image of a batch may keep another number of them. In a stage
with mask M (B, N) a frozen token is a key for nobody but itself, and the stage ends in

    X <- M * blocks(X) + (1 - M) * (X_entry + Approx(X_entry))

Prefix tokens always have mask 1. Heads that read patch tokens read those that the last stage keeps. Without
reuse (the paper's ablation) masks are products of all masks so far and nothing is recovered.

The same parameters as `ToFe.forward`, which leaves frozen tokens out: for equal sets both give the same
answers (tests/model/test_masked.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from tofe_export.model.tofe import ToFe

Choose = Callable[[Tensor, int], Tensor]
"""Makes a stage's mask (B, N), 0 or 1, of its scores (B, N) and its number from 0; frozen for good: -inf."""


class MaskedStage(NamedTuple):
    """What one stage did. Shapes: B images, N patch tokens, D width."""

    scores: Tensor
    """(B, N) z0 - z1, with gradient."""
    mask: Tensor
    """(B, N) 1 where a token was processed, with gradient; without reuse the product of all masks so far."""
    recovered: Tensor | None
    """(B, N, D) X + Approx(X) of the stage's entry (Eq. 6); None where nothing is recovered."""


class Masked(NamedTuple):
    """Result of a masked forward."""

    output: Tensor
    """(B, C) logits, or (B, D) features of a headless model."""
    stages: list[MaskedStage]
    final: Tensor
    """(B, P + N, D) tokens after the last block, before the final norm."""


def masked_forward(model: ToFe, images: Tensor, choose: Choose) -> Masked:
    """Run `model` on images (B, 3, H, W), with masks that `choose` makes of each stage's scores."""
    backbone, structure = model.backbone, model.structure
    prefix, blocks, stages = backbone.prefix, list(backbone.blocks), list[MaskedStage]()
    x = _run(blocks[: structure.locations[0]], backbone.embed(images), None)
    alive: Tensor | None = None  # without reuse: what earlier stages left
    for s, (start, end) in enumerate(
        zip(structure.locations, (*structure.locations[1:], len(blocks)), strict=True)
    ):
        scores = _scores(model, s, x[:, prefix:], alive)
        mask = choose(scores if alive is None else scores.masked_fill(alive == 0, -torch.inf), s)
        mask = mask if alive is None else mask * alive
        full, entry = nn.functional.pad(mask, (prefix, 0), value=1.0), x
        x = _run(blocks[start:end], x, full)
        recovered = None
        if not structure.reuse:
            alive = mask
        elif s + 1 < model.stages:
            recovered = model.approximators[s](entry[:, prefix:])
            x = torch.cat([x[:, :prefix], torch.lerp(recovered, x[:, prefix:], mask.unsqueeze(-1))], dim=1)
        stages.append(MaskedStage(scores, mask, recovered))
    output = backbone.masked_head(backbone.final_norm(x), stages[-1].mask)
    return Masked(output, stages, x)


def sampled(noise: Tensor, tau: float = 1.0) -> Choose:
    """Gumbel-softmax with the straight-through gradient (Eq. 9), from standard logistic noise (B, S, N).

    Of two classes only the difference counts: adding Gumbel noise to both log-probabilities and taking the
    larger is adding logistic noise to the scores z0 - z1 and asking for the sign. The gradient is that of
    the soft sample, sigmoid((score + noise) / tau). An image that would keep nothing keeps the token nearest
    to it, as inference does: a head that pools patch tokens has no answer without one.
    """

    def choose(scores: Tensor, stage: int) -> Tensor:
        drawn = scores + noise[:, stage]
        soft = (drawn / tau).sigmoid()
        hard = (drawn > 0) | (drawn == drawn.amax(dim=1, keepdim=True))
        return hard.to(soft.dtype) + (soft - soft.detach())  # exactly 0 or 1

    return choose


def top_k(keep: Sequence[int]) -> Choose:
    """The K_s best tokens of every image, ties to the lowest index, as `StaticFreezer` keeps them."""

    def choose(scores: Tensor, stage: int) -> Tensor:
        best = scores.float().argsort(dim=1, descending=True, stable=True)[:, : keep[stage]]
        return torch.zeros_like(scores).scatter(1, best, 1.0)

    return choose


def above(thresholds: Sequence[float]) -> Choose:
    """Tokens at or above a stage's threshold, and always the best one, as `AdaptiveFreezer` keeps them."""

    def choose(scores: Tensor, stage: int) -> Tensor:
        cut = scores.amax(dim=1, keepdim=True).clamp(max=thresholds[stage])
        return (scores >= cut).to(scores.dtype)

    return choose


def given(masks: Sequence[Tensor]) -> Choose:
    """Masks (B, N) per stage, whatever the scores."""
    return lambda scores, stage: masks[stage].to(scores)


def _run(blocks: Iterable[nn.Module], x: Tensor, mask: Tensor | None) -> Tensor:
    for block in blocks:
        x = block(x) if mask is None else block(x, attn_mask=mask)
    return x


def _scores(model: ToFe, stage: int, patches: Tensor, alive: Tensor | None) -> Tensor:
    """Scores in float32 whatever the surroundings compute in (decision 6)."""
    device = patches.device.type
    full = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
    with full:
        patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
        return cast(Tensor, model.selectors[stage](patches, alive))
