"""The model as it is exported: the same function with less to compute, on a copy.

Each step is exact but for rounding, and each removes whole operations from every graph of the model:

    scales     LayerScale (DeiT-III, DINOv2) and LV-ViT's division by skip_lam go into the projection before
    norms      batch norms of LV-ViT's stem go into the convolution before
    last rows  where the head reads prefix tokens alone, the last block computes keys and values of all its
               tokens, and everything else for those rows

Training, evaluation and reference answers use the model as it was written; parity proves that both agree.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from timm.layers import LayerScale
from timm.models.vision_transformer import Block, ResPostBlock
from torch import Tensor, nn

from tofe_export.model.attention import ManualAttention, attend, split_heads
from tofe_export.model.lv_vit import LvBlock, Stem
from tofe_export.model.tofe import ToFe

STEPS = ("scales", "norms", "last rows")


def lean_copy(model: ToFe, output: str = "head", steps: Sequence[str] = STEPS) -> ToFe:
    """A copy of `model` for evaluation that computes the same `output` ("head" or "tokens") with less.

    Parameters that no step changes are shared with `model`. Fewer `steps` are for measuring what each brings.
    """
    shared = {id(parameter): parameter for parameter in model.parameters()}
    lean = copy.deepcopy(model, shared).eval()
    for module in list(lean.modules()):
        if isinstance(module, Block) and "scales" in steps:
            _fold_scale(module, "ls1", module.attn)
            _fold_scale(module, "ls2", module.mlp)
        elif isinstance(module, LvBlock) and "scales" in steps:
            _fold_skip(module)
        elif isinstance(module, Stem) and "norms" in steps:
            _fold_norms(module)
    rows = lean.backbone.head_rows
    if output == "head" and rows is not None and "last rows" in steps:
        blocks = lean.backbone.blocks
        blocks[len(blocks) - 1] = FirstRows(cast(Block | ResPostBlock, blocks[-1]), rows)
    return lean


class FirstRows(nn.Module):
    """A block of timm's of which only the first rows of the result are computed."""

    def __init__(self, block: Block | ResPostBlock, rows: int) -> None:
        super().__init__()
        self.rows, self.norm_first = rows, isinstance(block, Block)
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.attn = FirstRowsAttention(cast(ManualAttention, block.attn), rows)
        self.ls1 = block.ls1 if isinstance(block, Block) else nn.Identity()
        self.ls2 = block.ls2 if isinstance(block, Block) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) to the first rows (B, rows, D) of what the block makes of them."""
        first = x[:, : self.rows]
        if self.norm_first:
            first = first + self.ls1(self.attn(self.norm1(x)))
            return cast(Tensor, first + self.ls2(self.mlp(self.norm2(first))))
        first = first + self.norm1(self.attn(x))
        return cast(Tensor, first + self.norm2(self.mlp(first)))


class FirstRowsAttention(nn.Module):
    """Attention of the first rows to all tokens: Q apart from K and V."""

    def __init__(self, attention: ManualAttention, rows: int) -> None:
        super().__init__()
        self.rows, self.num_heads, self.scale = rows, attention.num_heads, attention.scale
        self.q = _part(attention.qkv, 0, attention.attn_dim)
        self.kv = _part(attention.qkv, attention.attn_dim, 3 * attention.attn_dim)
        self.q_norm, self.k_norm, self.norm = attention.q_norm, attention.k_norm, attention.norm
        self.gate, self.proj = attention.gate, attention.proj

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, D) to (B, rows, D)."""
        first = x[:, : self.rows]
        (q,) = split_heads(self.q(first), 1, self.num_heads)
        k, v = split_heads(self.kv(x), 2, self.num_heads)
        mixed = self.norm(attend(self.q_norm(q), self.k_norm(k), v, self.scale))
        if self.gate is not None:
            mixed = mixed * self.gate(first).sigmoid()
        return cast(Tensor, self.proj(mixed))


def _part(linear: nn.Linear, start: int, end: int) -> nn.Linear:
    """The outputs [start, end) of a linear layer."""
    bias = linear.bias is not None
    part = nn.Linear(linear.in_features, end - start, bias=bias, device="meta")
    part.weight = nn.Parameter(linear.weight.detach()[start:end].clone())
    if bias:
        part.bias = nn.Parameter(linear.bias.detach()[start:end].clone())
    return part


def _fold_scale(block: Block, name: str, branch: nn.Module) -> None:
    """LayerScale behind a branch goes into the branch's last linear layer, where it has one."""
    scale, last = getattr(block, name), _last_linear(branch)
    if isinstance(scale, LayerScale) and last is not None:
        _scale(last, scale.gamma.detach())
        setattr(block, name, nn.Identity())


def _fold_skip(block: LvBlock) -> None:
    for last in (block.attn.proj, cast(nn.Linear, block.mlp.fc2)):
        _scale(last, last.weight.new_full((1,), 1 / block.skip_lam))
    block.skip_lam = 1.0


def _last_linear(branch: nn.Module) -> nn.Linear | None:
    """What a branch ends in: attention in `proj`, timm's MLPs in `fc2`."""
    names: Sequence[str] = ("proj",) if isinstance(branch, ManualAttention) else ("fc2",)
    found = [getattr(branch, name, None) for name in names]
    return next((module for module in found if isinstance(module, nn.Linear)), None)


def _scale(linear: nn.Linear, factors: Tensor) -> None:
    """Multiply the outputs of a linear layer, by one factor or by one each."""
    with torch.no_grad():
        linear.weight = nn.Parameter(linear.weight * factors.reshape(-1, 1))
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias * factors)


def _fold_norms(stem: Stem) -> None:
    for number in (1, 2, 3):
        convolution, norm = getattr(stem, f"conv{number}"), getattr(stem, f"bn{number}")
        if isinstance(norm, nn.BatchNorm2d):
            folded = torch.nn.utils.fuse_conv_bn_eval(convolution, norm)
            setattr(stem, f"conv{number}", folded)
            setattr(stem, f"bn{number}", nn.Identity())
