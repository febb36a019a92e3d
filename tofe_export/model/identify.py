"""Which architectures do these weights belong to? Compared by keys and shapes alone, so several may fit.

`deit_small` and `vit_small` have the same shapes and differ in their preprocessing: then all are listed and
the user chooses.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tofe_export.errors import CheckpointError
from tofe_export.model.backbone import create_backbone
from tofe_export.model.lv_vit import LV_VITS

CANDIDATES = (
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "deit_small_distilled_patch16_224",
    "deit_base_distilled_patch16_224",
    "deit3_small_patch16_224",
    "deit3_base_patch16_224",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
    "vit_base_patch16_siglip_224",
    "vit_small_patch14_dinov2",
    "vit_base_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch14_reg4_dinov2",
    "lvvit_s",
    "lvvit_m",
)


def identify(state: Mapping[str, Tensor]) -> list[str]:
    """Names among `CANDIDATES` whose official layout has exactly these keys and shapes."""
    positions = state.get("pos_embed")
    if positions is None or positions.ndim != 3:
        return []
    return [name for name in CANDIDATES if _fits(name, state, positions.shape[-1])]


def _fits(name: str, state: Mapping[str, Tensor], width: int) -> bool:
    bias = state.get("head.bias")
    classes = bias.shape[0] if bias is not None and bias.ndim == 1 else 0
    if not classes and name in LV_VITS:  # always has its heads
        return False
    unfilled = {} if name in LV_VITS else {"weight_init": "skip"}
    with torch.device("meta"):
        backbone = create_backbone(name, {"num_classes": classes} | unfilled)
    if backbone.width != width:
        return False
    try:
        backbone.load_weights({key: value.to("meta") for key, value in state.items()})
    except CheckpointError:
        return False
    return True
