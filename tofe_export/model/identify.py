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
    width = state["pos_embed"].shape[-1] if "pos_embed" in state else None
    return [name for name in CANDIDATES if _fits(name, state, width)]


def _fits(name: str, state: Mapping[str, Tensor], width: int | None) -> bool:
    classes = state["head.bias"].shape[0] if "head.bias" in state else None
    with torch.device("meta"):
        backbone = create_backbone(name, {} if classes is None else {"num_classes": classes})
    if backbone.width != width:
        return False
    try:
        backbone.load_weights({key: value.to("meta") for key, value in state.items()})
    except CheckpointError:
        return False
    return True
