"""Tune what computes, backbone and approximators, on the dense model's own answers; what selects stays.

The closed forms before it mend one block or one stage at a time. This step looks at the answer: the reduced
model, with the very sets that its selectors keep, learns to answer as the dense model did. Selectors are left
alone: a spread is a fine pattern that no small step improves, and with the sets fixed the gathered forward
serves, which costs what the budget says, not what the dense model costs. Tuning selectors through masks
instead was undone more often than not.

The dense model answers whatever it is shown, so a few pictures can be made many: half of the images of a step
are mixed with another one of their batch in a random proportion, and the dense model is asked about the
mixture. No labels are needed. Shapes: B images in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from tofe_export.calibration.divergence import divergence
from tofe_export.errors import InputError, TrainingDiverged
from tofe_export.fitting.original import Images, Original
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.tofe import ToFe

RATE = 1.6e-2
"""Of AdamW, for a model of width 1; divided by the width, as wide layers add up more changes."""
WARM_UP = 0.1  # share of the steps
CLIP = 1.0

Say = Callable[[str], None]


def tune(
    model: ToFe,
    original: Original,
    images: Images,
    keep: Sequence[int],
    steps: int,
    generator: torch.Generator,
    say: Say,
    backbone: bool = True,
) -> None:
    """Tune in place for `steps` steps; without `backbone` the approximators alone.

    Raises InputError where there are no images, TrainingDiverged where the loss is no number any more.
    """
    freezer = StaticFreezer(keep)
    learn(
        lambda shown: model(shown, freezer),
        tuned(model, backbone),
        original,
        images,
        steps,
        generator,
        say,
    )


def learn(
    answer: Callable[[Tensor], Tensor],
    parameters: Sequence[nn.Parameter],
    original: Original,
    images: Images,
    steps: int,
    generator: torch.Generator,
    say: Say,
) -> None:
    """`steps` steps of AdamW towards the original's answers, one batch each; as many passes as are needed.

    `answer` gives logits or features for images. Raises as `tune` does.
    """
    if not parameters:
        return
    rate = RATE / original.backbone.width
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=WARM_UP)
    classifier = original.backbone.num_classes > 0
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        for step, batch in zip(range(steps), _endless(images), strict=False):
            say(f"tuning: step {step + 1} of {steps}")
            shown = mix(batch, generator)
            with torch.enable_grad():
                loss = divergence(answer(shown).float(), original.answer(shown), classifier).mean()
            if not bool(loss.isfinite()):
                raise TrainingDiverged(
                    f"the divergence became {float(loss.detach())} in step {step + 1}: leave tuning out, "
                    "with --steps 0"
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP)
            optimizer.step()
            plan.step()
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def tuned(model: ToFe, backbone: bool) -> list[nn.Parameter]:
    """Every parameter but the selectors', or the approximators' alone."""
    whole = list(model.backbone.parameters()) if backbone else []
    return [*model.approximators.parameters(), *whole]


@torch.no_grad()
def mix(batch: Tensor, generator: torch.Generator) -> Tensor:
    """About half of the images (B, 3, H, W) mixed with another of their batch, in a drawn proportion."""
    count = len(batch)
    partner = torch.randperm(count, generator=generator).to(batch.device)
    share = torch.rand(count, 1, 1, 1, generator=generator)
    mixed = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
    weight = torch.where(mixed, share, torch.ones_like(share)).to(batch)
    return weight * batch + (1 - weight) * batch[partner]


def _endless(images: Images) -> Iterator[Tensor]:
    """Pass after pass. Raises InputError where a pass is empty."""
    while True:
        empty = True
        for batch in images:
            empty = False
            yield batch
        if empty:
            raise InputError("no images to fit on: expected at least one batch")
