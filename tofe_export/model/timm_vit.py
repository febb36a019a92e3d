"""Any timm `VisionTransformer` as a backbone.

Embedding is restated so that no batch-sized tensor is made: prefix tokens and position embedding are one
constant (1, P + N, D), and the patches are padded at the front and added to it. The result is what timm
computes, in the same order of additions. Blocks, norms and heads are timm's own modules, with attention
written out by hand (`attention.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, cast

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import (
    Block,
    ResPostBlock,
    VisionTransformer,
    checkpoint_filter_fn,
)
from torch import Tensor, nn

from tofe_export.errors import CheckpointError, UnsupportedModel
from tofe_export.model.attention import ManualLatentPool, write_out_attention
from tofe_export.model.backbone import Backbone, HeadCost
from tofe_export.model.weights import load_exactly
from tofe_export.preprocess import Preprocessing

_POOLS = ("token", "avg", "max", "avgmax", "map")
_WEIGHTS_ARGUMENTS = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"}
_ROTARY = ("eva", "dinov3", "_rope", "pe_core", "pe_spatial", "pe_lang")
_WINDOWED = (
    "swin",
    "samvit",
    "vitdet",
    "maxvit",
    "hiera",
    "mvit",
    "pvt",
    "twins",
    "nest",
    "coat",
)


class TimmVit(Backbone):
    """Adapter around a timm `VisionTransformer`."""

    vit: VisionTransformer

    def __init__(self, name: str, **arguments: Any) -> None:  # noqa: ANN401 - timm's own arguments
        super().__init__()
        with torch.device("meta"):  # a model of billions of weights is refused before any of them exists
            _refuse_unsupported(name, _create(name, arguments))
        self.vit = _create(name, arguments)
        write_out_attention(self.vit)
        vit = self.vit
        self.name, self.arguments = name, arguments
        self.prefix = vit.num_prefix_tokens
        self.grid = cast(tuple[int, int], tuple(vit.patch_embed.grid_size))
        self.width = vit.embed_dim
        self.attention_width = cast(Any, vit.blocks[0]).attn.attn_dim
        self.image_size = cast(tuple[int, int], tuple(vit.patch_embed.img_size))
        self.num_classes = vit.num_classes
        depth = len(vit.blocks)
        self.locations = tuple(depth * s // 4 for s in (1, 2, 3))  # 3, 6, 9 of 12: the paper's quarters

    @property
    def head_rows(self) -> int | None:
        """CLS, and the distillation token of distilled DeiTs; None for other pools."""
        vit = self.vit
        if vit.attn_pool is not None or vit.global_pool != "token":
            return None
        return 2 if isinstance(vit, VisionTransformerDistilled) else 1

    def embed(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W) into tokens (B, P + N, D)."""
        patches = self.vit.patch_embed(images)  # (B, N, D)
        padded = nn.functional.pad(patches, (0, 0, self.prefix, 0))
        return cast(Tensor, self.vit.norm_pre(padded + self._constant_embedding()))

    def _constant_embedding(self) -> Tensor:
        """Prefix tokens with their positions, then the patches' positions: (1, P + N, D)."""
        vit = self.vit
        names = ("cls_token", "dist_token", "reg_token")
        prefix = [token for name in names if (token := getattr(vit, name, None)) is not None]
        zeros = torch.zeros(1, self.tokens, self.width, device=vit.patch_embed.proj.weight.device)
        constant = torch.cat([*prefix, zeros], dim=1)
        if vit.pos_embed is None:
            return constant
        missing = constant.shape[1] - vit.pos_embed.shape[1]  # P where the prefix has no position, else 0
        return constant + nn.functional.pad(vit.pos_embed, (0, 0, missing, 0))

    def final_norm(self, x: Tensor) -> Tensor:
        """Norm after the last block."""
        return cast(Tensor, self.vit.norm(x))

    def head(self, x: Tensor) -> Tensor:
        """Pooling and classifier, timm's own."""
        return self.vit.forward_head(x)

    def masked_head(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pooling over what the last stage kept, and timm's own classifier."""
        vit = self.vit
        if vit.attn_pool is None and vit.global_pool == "token":
            return vit.forward_head(x)
        if not vit.pool_include_prefix:
            x = x[:, self.prefix :]
        else:
            mask = nn.functional.pad(mask, (self.prefix, 0), value=1.0)
        pooled = vit.head_drop(vit.fc_norm(self._pool(x, mask)))
        return cast(Tensor, vit.head(pooled))

    def _pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """Pool tokens (B, T, D) where mask (B, T) is 1 into (B, D)."""
        if self.vit.attn_pool is not None:
            return cast(Tensor, self.vit.attn_pool(x, attn_mask=mask))
        keep = mask.unsqueeze(-1)
        mean = (x * keep).sum(dim=1) / keep.sum(dim=1)
        largest = x.masked_fill(keep == 0, -torch.inf).amax(dim=1)
        return {"avg": mean, "max": largest, "avgmax": 0.5 * (largest + mean)}[self.vit.global_pool]

    def token_macs(self) -> int:
        """Eq. 4's 4D^2 + 2 D hidden, counted from the linear layers that are there."""
        return _linear_macs(self.vit.blocks[0])

    def stem_macs(self) -> int:
        """The patch convolution."""
        return self.tokens * int(self.vit.patch_embed.proj.weight.numel())

    def head_cost(self) -> HeadCost:
        """Classifier; for map pooling also the pool, whose keys and values read every token."""
        vit, fixed, per_token = self.vit, _linear_macs(self.vit.head), 0
        fixed += _linear_macs(getattr(vit, "head_dist", nn.Identity()))
        if isinstance(vit.attn_pool, ManualLatentPool):
            pool = vit.attn_pool
            attention = 2 * pool.num_heads * pool.head_dim * pool.latent_len
            per_token = _linear_macs(pool.kv) + attention
            fixed += pool.latent_len * (_linear_macs(pool.proj) + _linear_macs(pool.mlp or nn.Identity()))
        return HeadCost(fixed, per_token)

    def preprocessing(self) -> Preprocessing:
        """timm's evaluation settings; the DeiT paper's crop of 0.875 for DeiT."""
        config = timm.data.resolve_data_config({}, model=self.vit)
        official_deit = self.name.startswith("deit_")
        return Preprocessing(
            size=self.image_size,
            crop=0.875 if official_deit else config["crop_pct"],
            crop_mode=config["crop_mode"],
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Load timm, DeiT, DeiT-III or DINOv2 keys; positions and patches are resampled to this size."""
        try:
            adapted = checkpoint_filter_fn(dict(state), self.vit, adapt_layer_scale=True)
        except (KeyError, RuntimeError, ValueError, AssertionError) as error:
            raise CheckpointError(
                f"the weights do not fit {self.name}: timm could not adapt them ({error}). "
                "Check --model, or convert the file to timm's layout."
            ) from error
        load_exactly(self.vit, adapted, self.name)


def _linear_macs(module: nn.Module) -> int:
    """MACs per row of all linear layers inside `module`."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def _create(name: str, arguments: Mapping[str, Any]) -> VisionTransformer:
    if not timm.is_model(name):
        raise UnsupportedModel(
            f"no model is called {name!r}: expected lvvit_s, lvvit_m or a name that timm knows "
            f"(similar ones: {', '.join(_similar(name)) or 'none'})"
        )
    if foreign := sorted(_WEIGHTS_ARGUMENTS & arguments.keys()):
        raise UnsupportedModel(f"{name}: {', '.join(foreign)} would load weights; give a file by --backbone")
    try:
        model = timm.create_model(name, pretrained=False, **dict(arguments))
    except (TypeError, ValueError, AssertionError, LookupError, ArithmeticError, RuntimeError) as error:
        raise UnsupportedModel(f"{name} could not be built with {dict(arguments)}: {error}") from error
    if not isinstance(model, VisionTransformer):
        raise UnsupportedModel(_why_not(name, type(model).__name__))
    return model


def _similar(name: str) -> list[str]:
    """Up to 8 vision transformers that begin so, then those that differ in a few letters."""
    known = [model for module in ("vision_transformer", "deit") for model in timm.list_models(module=module)]
    begin = [model for model in known if model.startswith(name)]
    return list(dict.fromkeys([*begin, *get_close_matches(name, known, n=8)]))[:8]


def _why_not(name: str, kind: str) -> str:
    """Say why an architecture that is not a plain `VisionTransformer` cannot carry ToFe."""
    lowered = f"{name} {kind}".lower()
    if any(word in lowered for word in _ROTARY):
        return (
            f"{name} ({kind}) has rotary position embeddings, which enter in every block: freezing tokens "
            "needs their sin/cos rows gathered too, and that is not supported yet"
        )
    if any(word in lowered for word in _WINDOWED):
        return (
            f"{name} ({kind}) attends inside windows or pyramids of a fixed grid: tokens cannot be left out"
        )
    return f"{name} is a {kind}: ToFe needs a plain VisionTransformer whose blocks accept any set of tokens"


def _refuse_unsupported(name: str, vit: VisionTransformer) -> None:
    """Raise UnsupportedModel, with the reason, for variants of VisionTransformer that cannot work."""
    for i, block in enumerate(vit.blocks):
        if type(block) not in (Block, ResPostBlock):
            raise UnsupportedModel(
                f"{name} has {type(block).__name__} blocks (block {i}): only timm's Block and ResPostBlock, "
                "attention then MLP, are supported; parallel blocks are not"
            )
        if type(block.attn).__name__ != "Attention":
            raise UnsupportedModel(
                f"{name} uses {type(block.attn).__name__} in block {i}: only timm's Attention is supported"
            )
    if type(vit) not in (VisionTransformer, VisionTransformerDistilled):
        raise UnsupportedModel(_why_not(name, type(vit).__name__))
    if vit.global_pool not in _POOLS:
        raise UnsupportedModel(
            f"{name} pools with {vit.global_pool!r}, expected one of {', '.join(_POOLS)}: "
            "pass --model-arg global_pool=token (or avg), and --output tokens to `onnx` for dense features"
        )
    if vit.dynamic_img_size:
        raise UnsupportedModel(
            f"{name} was built for changing image sizes (dynamic_img_size), and ToFe needs a fixed one: "
            "pass --model-arg dynamic_img_size=false"
        )
    if type(vit.patch_embed) is not PatchEmbed:
        raise UnsupportedModel(
            f"{name} has a {type(vit.patch_embed).__name__} stem, and ToFe could not price it: only timm's "
            "PatchEmbed is supported"
        )
    if (channels := vit.patch_embed.proj.weight.shape[1]) != 3:
        raise UnsupportedModel(f"{name} takes images of {channels} channels, expected 3: ToFe prepares RGB")
    if vit.patch_embed.num_patches < 1 or vit.num_classes < 0:
        raise UnsupportedModel(
            f"{name} would have {vit.patch_embed.num_patches} patch tokens and {vit.num_classes} classes: "
            "the image must hold at least one patch, and num_classes is at least 0"
        )
    if len(vit.blocks) < 4:
        raise UnsupportedModel(f"{name} has {len(vit.blocks)} blocks, and three selections need at least 4")
