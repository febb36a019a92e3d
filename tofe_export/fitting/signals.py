"""How much a token matters in a stage, seen from the dense model: what selectors are distilled from.

    sensitivity   how far the answer moves, to first order, when freezing the token begins: the gradient with
                  respect to its mask sees both that others lose it as a key and that it comes back stale
    update        how far the stage's blocks would move the token: what freezing it leaves out

The answer's own metric is used, without labels: the gradient is that of C logits weighted by random signs and
the square roots of their probabilities, whose mean square is the second-order term of the Kullback-Leibler
divergence (its first-order term is 0 at the dense model). Two draws suffice, since selectors average over
images anyway. Shapes: B images, S stages, N patch tokens, P prefix tokens, C classes.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from tofe_export.fitting.original import Original
from tofe_export.model.masked import given, masked_forward
from tofe_export.model.tofe import ToFe

Signal = Literal["sensitivity", "update"]
DRAWS = 2


def measure(
    kind: Signal, model: ToFe, original: Original, images: Tensor, generator: torch.Generator
) -> Tensor:
    """Signal (B, S, N), 0 or above, for images (B, 3, H, W)."""
    if kind == "update":
        return update(model, original, images)
    return sensitivity(model, images, generator)


def sensitivity(model: ToFe, images: Tensor, generator: torch.Generator, draws: int = DRAWS) -> Tensor:
    """Mean square of the answer's change per unit of mask, (B, S, N), at the model that freezes nothing."""
    shape = model.stages, len(images), model.backbone.tokens
    total = images.new_zeros(len(images), model.stages, model.backbone.tokens)
    masks = [mask.requires_grad_() for mask in torch.ones(shape, device=images.device).unbind()]
    with torch.enable_grad():
        output = masked_forward(model, images, given(masks)).output.float()
        for draw in range(draws):
            weights = _weights(output.detach(), model.backbone.num_classes > 0, generator)
            found = torch.autograd.grad((output * weights).sum(), masks, retain_graph=draw + 1 < draws)
            total = total + torch.stack(found, dim=1).square() / draws
    return total


def update(model: ToFe, original: Original, images: Tensor) -> Tensor:
    """Norm of what each stage's blocks add to each token, (B, S, N)."""
    depth, prefix = len(model.backbone.blocks), model.backbone.prefix
    tokens = original.tokens(images, (*model.structure.locations, depth))
    changes = [(after - before)[:, prefix:] for before, after in pairwise(tokens)]
    return torch.stack([change.norm(dim=-1) for change in changes], dim=1)


def _weights(output: Tensor, classifier: bool, generator: torch.Generator) -> Tensor:
    """Random weights (B, C) of the answer whose covariance is the answer's metric."""
    signs = torch.randint(2, output.shape, generator=generator).to(output) * 2 - 1
    if not classifier:
        return signs
    roots = output.softmax(dim=1).sqrt()
    return roots * signs - roots.square() * (roots * signs).sum(dim=1, keepdim=True)
