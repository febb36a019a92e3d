"""The models behind the sides, with weights drawn from a seed, and what a case's budget means for them.

Latency does not depend on weights, but a selector whose scores all tie would meet other cases in TopK than a
trained one, so weights are drawn that tell pictures and tokens apart (`drawn.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from drawn import drawn_checkpoint, enliven
from torch import nn

from latency.cases import TINY, Case
from tofe_export.keep import Plan, solve
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.lv_vit import LV_VITS
from tofe_export.model.tofe import ToFe

_SEED = 0


def drawn(case: Case, **changes: Any) -> Checkpoint:  # noqa: ANN401 - arguments of the architecture
    """The case's ToFe model; `changes` to name, image_size or arguments make its relatives."""
    name = changes.pop("name", case.model)
    size = changes.pop("image_size", case.image_size)
    return drawn_checkpoint(name, _SEED, image_size=(size, size), arguments={**case.arguments, **changes})


def redrawn(model: ToFe) -> ToFe:
    """A model on a backbone of `drawn`, its own selectors drawn too; the backbone's weights stay the same."""
    enliven(model, _SEED)
    return model.eval()


def smaller(name: str) -> dict[str, Any]:
    """What a relative such as "160 px", "6 blocks" or TINY changes; empty for any other side."""
    number, _, unit = name.partition(" ")
    if unit in ("px", "blocks"):
        return {{"px": "image_size", "blocks": "depth"}[unit]: int(number)}
    return {"name": "deit_tiny_patch16_224"} if name == TINY else {}


def plan_of(checkpoint: Checkpoint, case: Case) -> Plan:
    """Keep counts of the case's budget."""
    return solve(checkpoint.model.cost(), case.budget_gmacs)


def plain_model(checkpoint: Checkpoint, case: Case) -> nn.Module:
    """The architecture as its own library has it, with the same weights: timm's, or the official LV-ViT's."""
    backbone = checkpoint.model.backbone
    if case.model in LV_VITS:
        return backbone.vit.eval()
    arguments: Mapping[str, Any] = {**case.arguments, "img_size": (case.image_size, case.image_size)}
    model: nn.Module = timm.create_model(case.model, pretrained=False, **arguments)
    model.load_state_dict(backbone.vit.state_dict())
    return model.eval()


def images_of(checkpoint: Checkpoint, batch: int) -> torch.Tensor:
    """Example images (B, 3, H, W)."""
    return torch.zeros(batch, 3, *checkpoint.model.backbone.image_size)
