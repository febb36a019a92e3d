"""IdleViT: in every later block a part of the tokens idles, and any may come back.

Xu et al., "No Token Left Behind", 2023. From block `first` on, each block keeps the K tokens whose keys
answer the CLS query best (attention logits, mean over heads) out of *all* N; the others bypass the block
unchanged. Over equal thirds of these blocks K is r N, r^2 N, r^3 N. A block pays the keys of all tokens and
the CLS query for the choice, and everything else for the kept ones.

Its recipe: class loss, 20 * token cut / blocks, 10 * KL to the original's logits, 1000 * squared distance of
the normalised CLS features. The token cut asks the attention (softmax of the logits averaged over heads)
to stay within the kept and within the idle tokens: the share of a row's attention inside its own set is
pulled to 1, that outside to 0, by squared error. Two readings of the description are ours: the CLS counts
as kept, and "normalised" is unit length.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional

from accuracy.objectives import LastTokens
from accuracy.rivals.layers import (
    Heads,
    add_attention,
    attention_macs,
    attention_of,
    best,
    blocks_of,
    heads_of,
    join_heads,
    mlp_macs,
    mlp_update,
    outer_macs,
    take_rows,
    with_cls,
)
from accuracy.rivals.reduced import Reduced, nearest
from tofe_export.model.attention import split_heads
from tofe_export.model.backbone import Backbone
from tofe_export.training.batch import Batch, Step
from tofe_export.training.losses import classification_loss, distillation_loss
from tofe_export.training.objective import Objective, Terms

CUT, KL, FEATURE = 20.0, 10.0, 1000.0
_IDLE = -1e5  # added to the logits of idle keys


class Idled(NamedTuple):
    """Result of the training forward."""

    logits: Tensor
    """(B, C)"""
    features: Tensor
    """(B, D) the CLS after the final norm."""
    cut: Tensor
    """The token cut loss, mean over blocks."""


class IdleViT(Reduced):
    """A backbone whose blocks from `first` on process their share of the tokens."""

    def __init__(self, backbone: Backbone, first: int, rate: float) -> None:
        super().__init__()
        self.backbone, self.first, self.rate = backbone, first, rate

    @classmethod
    def for_macs(cls, backbone: Backbone, first: int, target: float) -> IdleViT:
        """The rate r, in thousandths, whose cost is nearest to `target`."""
        rates = (thousandths / 1000 for thousandths in range(1, 1001))
        return cls(backbone, first, nearest(rates, lambda r: cls(backbone, first, r).macs(), target))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C), idle tokens left out."""
        x = self.backbone.embed(images)
        for number, block in blocks_of(self.backbone):
            x = block(x) if number < self.first else idle_block(block, x, self._keep(number))
        return self.backbone.head(self.backbone.final_norm(x))

    def masked(self, images: Tensor) -> Idled:
        """The same answers with all tokens in place, and what the losses need."""
        x, cuts = self.backbone.embed(images), []
        for number, block in blocks_of(self.backbone):
            if number < self.first:
                x = block(x)
            else:
                x, cut = masked_block(block, x, self._keep(number))
                cuts.append(cut)
        normed = self.backbone.final_norm(x)
        return Idled(self.backbone.head(normed), normed[:, 0], torch.stack(cuts).mean())

    def macs(self) -> int:
        """MACs per image."""
        backbone, tokens = self.backbone, self.backbone.tokens
        total = outer_macs(backbone, tokens)
        one_projection = backbone.width * backbone.attention_width
        for number, _ in blocks_of(backbone):
            if number < self.first:
                total += attention_macs(backbone, 1 + tokens) + mlp_macs(backbone, 1 + tokens)
                continue
            kept = 1 + self._keep(number)
            idle_keys = (1 + tokens - kept) * one_projection
            choice = one_projection + (1 + tokens) * backbone.attention_width
            total += attention_macs(backbone, kept) + idle_keys + choice + mlp_macs(backbone, kept)
        return total

    def kept(self) -> tuple[int, ...]:
        """Patch tokens that each block from `first` on processes."""
        return tuple(self._keep(number) for number in range(self.first, len(self.backbone.blocks)))

    def _keep(self, block: int) -> int:
        third = 3 * (block - self.first) // (len(self.backbone.blocks) - self.first)
        return max(1, int(self.backbone.tokens * self.rate ** (third + 1)))


def idle_block(block: Block, x: Tensor, keep: int) -> Tensor:
    """One block on the CLS and the `keep` patches it asks for; the others stay as they are."""
    attention = attention_of(block)
    normed = block.norm1(x)
    qkv = attention.qkv
    weights = qkv.weight.chunk(3)
    biases = (None,) * 3 if qkv.bias is None else qkv.bias.chunk(3)

    def project(rows: Tensor, part: int) -> Tensor:
        out: Tensor = functional.linear(rows, weights[part], biases[part])
        return split_heads(out, 1, attention.num_heads)[0]  # (B, H, rows, d)

    keys = attention.k_norm(project(normed, 1))
    asking = attention.q_norm(project(normed[:, :1], 0))
    index = with_cls(best((asking @ keys.transpose(-2, -1))[:, :, 0, 1:].mean(dim=1), keep)[0])
    rows = take_rows(normed, index)
    keys = keys.gather(2, index[:, None, :, None].expand(-1, keys.shape[1], -1, keys.shape[3]))
    heads = Heads(attention.q_norm(project(rows, 0)) * attention.scale, keys, project(rows, 2))
    kept = add_attention(
        block, take_rows(x, index), join_heads(block, heads.logits().softmax(dim=-1) @ heads.v)
    )
    kept = kept + mlp_update(block, kept)
    return x.scatter(1, index.unsqueeze(-1).expand_as(kept), kept)


def masked_block(block: Block, x: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """`idle_block` on all tokens, and the token cut of its attention."""
    heads = heads_of(block, block.norm1(x))
    logits = heads.logits()
    index = with_cls(best(logits[:, :, 0, 1:].mean(dim=1).detach(), keep)[0])
    mask = torch.zeros_like(x[..., 0]).scatter(1, index, 1.0)  # (B, T)
    attention = (logits + _IDLE * (1 - mask[:, None, None, :])).softmax(dim=-1)
    x = add_attention(block, x, join_heads(block, attention @ heads.v) * mask.unsqueeze(-1))
    x = x + mlp_update(block, x) * mask.unsqueeze(-1)
    return x, token_cut(logits.mean(dim=1).softmax(dim=-1), mask)


def token_cut(attention: Tensor, mask: Tensor) -> Tensor:
    """How much attention (B, T, T) crosses between kept and idle tokens of mask (B, T)."""
    own = mask.unsqueeze(2) == mask.unsqueeze(1)
    inside = (attention * own).sum(dim=-1)
    return (inside - 1).square().mean() + (attention * ~own).sum(dim=-1).square().mean()


class IdleViTObjective(Objective):
    """Trains an IdleViT as its authors do; its backbone as it is now becomes the teacher."""

    student: IdleViT

    def __init__(self, model: IdleViT) -> None:
        super().__init__()
        self.student = model
        self.teacher = LastTokens(model.backbone)

    def forward(self, batch: Batch, step: Step) -> Terms:
        """Terms "cls", "cut", "distill" and "feature"."""
        idled = self.student.masked(batch.images)
        tokens, taught = self.teacher(batch.images)
        ours, theirs = (functional.normalize(f, dim=-1) for f in (idled.features, tokens[:, 0]))
        return Terms(
            {
                "cls": classification_loss(idled.logits, batch.targets),
                "cut": CUT * idled.cut,
                "distill": KL * distillation_loss(idled.logits, taught),
                "feature": FEATURE * functional.mse_loss(ours, theirs),
            },
            {},
        )
