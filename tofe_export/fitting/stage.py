"""What one stage is fitted on: its entry tokens in the reduced model, and what the dense model makes of them.

Stages are fitted one after the other, because a stage's entry depends on what the stages before it froze and
recovered: fitted on the dense model's tokens, later stages would meet others at inference. Memory is bounded
by a number of tokens, not of images: beyond it the first images stand for all, so images should come in an
order drawn at random. Shapes: n images, B in a batch, N patch tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tofe_export.fitting.original import Images, Original, at_most
from tofe_export.model.freezer import StageRecord, StaticFreezer
from tofe_export.model.tofe import ToFe

TOKENS = 100_000
"""Tokens kept of a stage: 150 MB at a width of 384, twice that where they are recovered."""


class StageData(NamedTuple):
    """One stage of n images."""

    entry: Tensor
    """(n, N, D) tokens that the selector scores; without reuse those that earlier stages left."""
    ids: Tensor
    """(n, N) the place of each in the image."""
    later: Tensor | None
    """(n, N, D) the dense model's tokens where frozen ones come back; None where none do."""


def images_within(model: ToFe, tokens: int = TOKENS) -> int:
    """How many images have so many patch tokens, at least 1."""
    return max(1, tokens // model.backbone.tokens)


@torch.no_grad()
def collect(
    model: ToFe, original: Original, images: Images, keep: Sequence[int], stage: int, count: int
) -> StageData:
    """Entry and later tokens of `stage` (from 0) for the first `count` images.

    Raises InputError where there are no images.
    """
    entries: list[Tensor] = []
    ids: list[Tensor] = []
    later: list[Tensor] = []
    hook = model.selectors[stage].register_forward_pre_hook(lambda module, args: entries.append(args[0]))
    recovers = recovering(model, stage)
    try:
        for batch in at_most(images, count):
            records: list[StageRecord] = []
            model(batch, StaticFreezer(keep), record=records)
            ids.append(records[stage].ids.to(batch.device))
            if recovers:
                (tokens,) = original.tokens(batch, model.structure.locations[stage + 1 : stage + 2])
                later.append(tokens[:, model.backbone.prefix :])
    finally:
        hook.remove()
    return StageData(torch.cat(entries), torch.cat(ids), torch.cat(later) if recovers else None)


def recovering(model: ToFe, stage: int) -> bool:
    """Whether what `stage` freezes comes back."""
    return model.structure.reuse and stage + 1 < model.stages


@torch.no_grad()
def frozen_rows(
    model: ToFe, data: StageData, keep: int, stage: int, batch: int = 64
) -> tuple[Tensor, Tensor]:
    """Entry and later tokens, each (rows, D), of those that the stage's selector freezes.

    Raises ValueError for a stage that recovers nothing.
    """
    if data.later is None:
        raise ValueError(f"stage {stage + 1} recovers nothing")
    kept = torch.zeros(data.entry.shape[:2], dtype=torch.bool, device=data.entry.device)
    scores = torch.cat([model.selectors[stage](part) for part in data.entry.split(batch)])
    best = scores.argsort(dim=1, descending=True, stable=True)[:, :keep]
    kept.scatter_(1, best, True)
    return data.entry[~kept], data.later[~kept]
