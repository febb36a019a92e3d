"""AdamW with four parameter groups: modules and backbone, each with and without weight decay."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Optimizer

from tofe_export.training.objective import Objective
from tofe_export.training.recipe import Recipe
from tofe_export.training.schedule import Rates

_TOKENS = ("pos_embed", "cls_token", "dist_token", "reg_token")


def create_optimizer(objective: Objective, recipe: Recipe) -> AdamW:
    """AdamW over the objective's groups; the learning rates are set before each step by `set_rates`.

    Vectors (biases, scales of norms) and the learned tokens and positions are not decayed, as in DeiT.
    """
    names = {parameter: name for name, parameter in objective.student.named_parameters()}
    groups = [
        {"params": chosen, "weight_decay": recipe.weight_decay * decayed, "rate": rate}
        for rate, parameters in objective.groups().items()
        for decayed in (True, False)
        if (chosen := [p for p in _trainable(parameters) if _decays(names.get(p, ""), p) == decayed])
    ]
    return AdamW(groups, lr=recipe.lr)


def set_rates(optimizer: Optimizer, rates: Rates) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = getattr(rates, group["rate"])


def _trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.rpartition(".")[2] not in _TOKENS
