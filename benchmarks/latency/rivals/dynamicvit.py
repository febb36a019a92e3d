"""DynamicViT's graph: ToFe without reuse and with its predictor, traced and bound as ours is."""

from __future__ import annotations

from accuracy.rivals.dynamicvit import DynamicViT

from tofe_export.budget import macs_executed
from tofe_export.model.backbone import Backbone


def at_macs(backbone: Backbone, target: float) -> DynamicViT:
    """The keep rate, in thousandths, whose graph's MACs are nearest to `target`."""
    model = DynamicViT(backbone, backbone.locations, 1.0)
    cost = model.pruned.cost()

    def price(rate: float) -> int:
        model.rate = rate
        return macs_executed(cost, model.kept(), "scatter")

    model.rate = min((r / 1000 for r in range(1, 1001)), key=lambda rate: abs(price(rate) - target))
    return model
