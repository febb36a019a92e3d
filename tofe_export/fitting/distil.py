"""Tune selectors and approximators on the dense model's own answers: what a token is worth among the others.

A stage's loss depends on which tokens are kept together, and no signal per token knows that. The masked
forward does: the divergence from the dense model's answer has a gradient with respect to each token's mask,
at the very sets that are kept. Here each stage keeps its K_s best tokens, so the cost never moves; the
gradient is that of a soft cut at the K-th score (straight through), and some noise on the scores lets tokens
near the cut change places. The backbone stays as it is; no labels, no budget loss. Shapes: B, N as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from tofe_export.calibration.divergence import divergence
from tofe_export.errors import InputError, TrainingDiverged
from tofe_export.fitting.original import Images, Original
from tofe_export.model.masked import Choose, masked_forward
from tofe_export.model.tofe import ToFe

RATE = 2e-3
NOISE = 0.3  # of the scores' own spread
SOFTNESS = 0.5  # of the scores' own spread
CLIP = 1.0

Say = Callable[[str], None]


def distil(
    model: ToFe,
    original: Original,
    images: Images,
    keep: Sequence[int],
    steps: int,
    generator: torch.Generator,
    say: Say,
) -> None:
    """`steps` steps of AdamW, in place, one batch each; `images` is gone through as often as needed.

    Raises InputError where there are no images, TrainingDiverged where the loss is no number any more.
    """
    parameters = [*model.selectors.parameters(), *model.approximators.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    choose, classifier = nearly_best(keep, generator), model.backbone.num_classes > 0
    try:
        for step, batch in zip(range(steps), _endless(images), strict=False):
            say(f"distil: step {step + 1} of {steps}")
            with torch.enable_grad():
                answer = masked_forward(model, batch, choose).output.float()
                loss = divergence(answer, original.answer(batch), classifier).mean()
            if not bool(loss.isfinite()):
                raise TrainingDiverged(
                    f"the divergence became {float(loss.detach())} in step {step + 1}: leave tuning out, "
                    "with --steps 0"
                )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            plan.step()
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def nearly_best(keep: Sequence[int], generator: torch.Generator) -> Choose:
    """The K_s best of scores with noise; the gradient of a sigmoid around the cut."""

    def choose(scores: Tensor, stage: int) -> Tensor:
        noise = torch.randn(scores.shape, generator=generator).to(scores)
        spread = scores.detach().masked_fill(~scores.isfinite(), 0.0).std(dim=1, keepdim=True).clamp(min=1e-6)
        drawn = scores + NOISE * spread * noise
        order = drawn.detach().sort(dim=1, descending=True, stable=True)
        last = keep[stage] - 1
        cut = order.values[:, last : last + 2].mean(
            dim=1, keepdim=True
        )  # between the last in and the first out
        cut = torch.where(cut.isfinite(), cut, order.values[:, last : last + 1])
        hard = torch.zeros_like(scores).scatter(1, order.indices[:, : last + 1], 1.0)
        soft = ((drawn - cut) / (SOFTNESS * spread)).sigmoid()
        return hard + (soft - soft.detach())

    return choose


def _endless(images: Images) -> Iterator[Tensor]:
    """Pass after pass. Raises InputError where a pass is empty."""
    while True:
        empty = True
        for batch in images:
            empty = False
            yield batch
        if empty:
            raise InputError("no images to fit on: expected at least one batch")
