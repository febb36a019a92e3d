"""LV-ViT-S and LV-ViT-M, written from the published architecture (timm has none).

Facts: a four-layer convolutional stem to a 14 x 14 grid, blocks whose two residuals are divided by
`skip_lam` = 2, no QKV bias, LayerNorm with eps 1e-5, and at evaluation an auxiliary head that reads every
patch token: logits = head(CLS) + 0.5 * max over patch tokens of aux_head. With ToFe the maximum runs over
the tokens that the last stage keeps (decision 10 of token_reduction 3.2). Module names give the official
checkpoints' keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import cast

import torch
from timm.layers import resample_abs_pos_embed
from timm.layers.mlp import Mlp
from torch import Tensor, nn

from tofe_export.errors import CheckpointError, UnsupportedModel
from tofe_export.model.attention import ManualAttention
from tofe_export.model.backbone import Backbone, HeadCost
from tofe_export.model.weights import load_exactly
from tofe_export.preprocess import Preprocessing


@dataclass(frozen=True)
class LvVitSize:
    """What tells the two sizes apart."""

    width: int
    depth: int
    heads: int
    crop: float


LV_VITS = {
    "lvvit_s": LvVitSize(384, 16, 6, 0.9),
    "lvvit_m": LvVitSize(512, 20, 8, 1.0),
}
_SKIP_LAM = 2.0
_STRIDE = 16
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Stem(nn.Module):
    """conv7/2, conv3, conv3 (each BN, ReLU) and an 8x8 patch convolution: 1/16 resolution."""

    def __init__(self, width: int, channels: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.proj = nn.Conv2d(channels, width, 8, stride=8)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into patch tokens (B, N, D), row-major."""
        x = images
        for conv, bn in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = nn.functional.relu(bn(conv(x)))
        return cast(Tensor, self.proj(x)).flatten(2).transpose(1, 2)


class LvBlock(nn.Module):
    """Attention and MLP, each residual divided by `skip_lam`."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = ManualAttention(width, heads, qkv_bias=False)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        self.skip_lam = _SKIP_LAM

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Map tokens (B, T, D) to (B, T, D); `attn_mask` (B, T) is 0 for tokens that others do not see."""
        x = x + self._share(self.attn(self.norm1(x), attn_mask=attn_mask))
        return x + self._share(self.mlp(self.norm2(x)))

    def _share(self, branch: Tensor) -> Tensor:
        """Divide a residual by `skip_lam`, which is 1 where it was folded into the weights."""
        return branch / self.skip_lam if self.skip_lam != 1 else branch


class LvVitModel(nn.Module):
    """The plain LV-ViT at evaluation, with the official checkpoints' keys."""

    def __init__(self, width: int, depth: int, heads: int, tokens: int, num_classes: int) -> None:
        super().__init__()
        self.patch_embed = Stem(width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + tokens, width))
        self.blocks = nn.ModuleList(LvBlock(width, heads, mlp_ratio=3.0) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        self.aux_head = nn.Linear(width, num_classes)
        for token in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into tokens (B, 1 + N, D); padding makes the CLS row, without Expand."""
        patches = self.patch_embed(images)
        cls = nn.functional.pad(self.cls_token, (0, 0, 0, patches.shape[1]))
        return nn.functional.pad(patches, (0, 0, 1, 0)) + (cls + self.pos_embed)

    def classify(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, C) from final-normed tokens (B, 1 + K, D): CLS, and the best patch of each class.

        Patches where `mask` (B, K) is 0 are not read.
        """
        patches = cast(Tensor, self.aux_head(x[:, 1:]))
        if mask is not None:
            patches = patches.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf)
        return cast(Tensor, self.head(x[:, 0]) + 0.5 * patches.amax(dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, H, W)."""
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.classify(self.norm(x))


class LvVit(Backbone):
    """Adapter around `LvVitModel`. `embed_dim`, `depth` and `num_heads` make smaller ones for tests."""

    vit: LvVitModel

    def __init__(
        self,
        name: str,
        *,
        img_size: int | Sequence[int] = 224,
        num_classes: int = 1000,
        embed_dim: int | None = None,
        depth: int | None = None,
        num_heads: int | None = None,
    ) -> None:
        super().__init__()
        size = LV_VITS[name]
        rows, columns = _grid(name, img_size)
        width, depth, heads = embed_dim or size.width, depth or size.depth, num_heads or size.heads
        if min(num_classes, width, heads) < 1 or width % heads or depth < 4:
            raise UnsupportedModel(
                f"{name} needs num_classes >= 1, a width that its heads divide and at least 4 blocks; got "
                f"{num_classes} classes, width {width}, {heads} heads, {depth} blocks"
            )
        self.vit = LvVitModel(width, depth, heads, rows * columns, num_classes)
        self.name = name
        self.arguments = {
            "img_size": [rows * _STRIDE, columns * _STRIDE],
            "num_classes": num_classes,
            "embed_dim": width,
            "depth": depth,
            "num_heads": heads,
        }
        self.prefix, self.grid = 1, (rows, columns)
        self.width = self.attention_width = width
        self.image_size, self.num_classes = (rows * _STRIDE, columns * _STRIDE), num_classes
        self.locations = tuple(depth * s // 4 for s in (1, 2, 3))
        self._crop = size.crop

    def embed(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into tokens (B, 1 + N, D)."""
        return self.vit.embed(images)

    def final_norm(self, x: Tensor) -> Tensor:
        """Norm after the last block."""
        return cast(Tensor, self.vit.norm(x))

    def head(self, x: Tensor) -> Tensor:
        """CLS head plus half the maximum of the auxiliary head over the patch tokens given."""
        return self.vit.classify(x)

    def masked_head(self, x: Tensor, mask: Tensor) -> Tensor:
        """CLS logits plus half the best kept patch's (decision 10)."""
        return self.vit.classify(x, mask)

    def token_macs(self) -> int:
        """Eq. 4's 4D^2 + 2 D hidden with hidden = 3D."""
        return sum(m.weight.numel() for m in self.vit.blocks[0].modules() if isinstance(m, nn.Linear))

    def stem_macs(self) -> int:
        """Three convolutions at half resolution, one at 1/16."""
        stem, half = self.vit.patch_embed, self.tokens * (_STRIDE // 2) ** 2
        convolutions = stem.conv1, stem.conv2, stem.conv3
        return half * sum(c.weight.numel() for c in convolutions) + self.tokens * stem.proj.weight.numel()

    def head_cost(self) -> HeadCost:
        """CLS head once, auxiliary head per kept token."""
        return HeadCost(self.vit.head.weight.numel(), self.vit.aux_head.weight.numel())

    def preprocessing(self) -> Preprocessing:
        """The official evaluation settings."""
        return Preprocessing(
            size=self.image_size,
            crop=self._crop,
            crop_mode="center",
            interpolation="bicubic",
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
        )

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load the official keys; the position embedding is resampled to this image size."""
        adapted = dict(state)
        positions = adapted.get("pos_embed")
        if positions is not None and positions.ndim == 3 and positions.shape[1] != 1 + self.tokens:
            if isqrt(max(positions.shape[1] - 1, 0)) ** 2 != positions.shape[1] - 1:
                raise CheckpointError(
                    f"the weights do not fit {self.name}: {positions.shape[1]} positions are not those of a "
                    "CLS token and a square grid. Check --model"
                )
            adapted["pos_embed"] = resample_abs_pos_embed(positions, list(self.grid), num_prefix_tokens=1)
        load_exactly(self.vit, adapted, self.name)


def _grid(name: str, img_size: int | Sequence[int]) -> tuple[int, int]:
    """Rows and columns of patches for an image size."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    if height < _STRIDE or width < _STRIDE or height % _STRIDE or width % _STRIDE:
        raise UnsupportedModel(
            f"{name} needs image sides that are multiples of {_STRIDE}, got {height}x{width}"
        )
    return height // _STRIDE, width // _STRIDE
