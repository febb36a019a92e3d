"""The dense model as it was handed in: what everything here is fitted to, and measured against.

A frozen copy, so that blocks may be refitted while it goes on answering. Shapes: B images, P prefix tokens,
N patch tokens, D width, C classes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tofe_export.errors import InputError
from tofe_export.model.backbone import Backbone

Images = Iterable[Tensor]
"""Batches (B, 3, H, W) on the model's device, the same in every pass."""


class Original:
    """A frozen copy of a backbone; no `nn.Module`, so that nothing saves or trains it."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = copy.deepcopy(backbone).eval().requires_grad_(False)

    @torch.no_grad()
    def answer(self, images: Tensor) -> Tensor:
        """Logits (B, C), or features (B, D) of a headless model."""
        return self.backbone.dense(images)

    @torch.no_grad()
    def tokens(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """All tokens (B, P + N, D) at the inputs of these increasing blocks; the depth means the end."""
        found, x = list[Tensor](), self.backbone.embed(images)
        for number, block in enumerate(self.backbone.blocks):
            if number in blocks:
                found.append(x)
            if len(found) == len(blocks):
                return found
            x = block(x)
        return [*found, x]


def at_most(images: Images, count: int) -> Iterator[Tensor]:
    """The first `count` images. Raises InputError where there are none."""
    left = count
    for batch in images:
        yield batch[:left]
        left -= len(batch[:left])
        if not left:
            return
    if left == count:
        raise InputError("no images to fit on: expected at least one batch")


@dataclass(frozen=True)
class First:
    """The first `count` images, as often as they are asked for."""

    images: Images
    count: int

    def __iter__(self) -> Iterator[Tensor]:
        return at_most(self.images, self.count)
