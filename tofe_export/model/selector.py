"""Token selectors: one score per patch token (Eq. 8).

The paper feeds `Softmax(MLP(X))` to the sort. Its order is the order of the logit difference z0 - z1, where
index 0 means *keep* (decision 5; token_reduction decision 22), so that difference is what a selector returns.
It always computes in float32 (decision 6).

A conditioned selector knows the budget: one scalar moves the bias of its first layer, so that one set of
weights serves a whole range of budgets. The shift is the same for every token, hence costs nothing: for a
budget that is fixed, it is a bias like any other.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

SelectorKind = Literal["mlp", "dynamicvit"]
CONDITION = ".fc1.b"
"""How the name of a conditioned selector's scalar buffer ends."""


class ConditionedLinear(nn.Linear):
    """A linear layer whose bias follows one scalar: bias + b * condition; `condition` starts at zero."""

    b: Tensor
    """The scalar (), never saved: whoever runs the model sets it."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__(width_in, width_out)
        self.condition = nn.Parameter(torch.zeros(width_out))
        self.register_buffer("b", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., width_in) to (..., width_out)."""
        return nn.functional.linear(x, self.weight, self.bias + self.b * self.condition)


class MlpSelector(nn.Module):
    """LN, then a 3-layer MLP D -> D/2 -> D/4 -> 2; the paper's choice."""

    def __init__(self, width: int, conditioned: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = (ConditionedLinear if conditioned else nn.Linear)(width, width // 2)
        self.fc2 = nn.Linear(width // 2, width // 4)
        self.fc3 = nn.Linear(width // 4, 2)

    def set_condition(self, b: float) -> None:
        """Set the scalar that stands for the budget; without effect on an unconditioned selector."""
        if isinstance(self.fc1, ConditionedLinear):
            self.fc1.b.fill_(b)

    def features(self, x: Tensor, alive: Tensor | None = None) -> Tensor:
        """Last hidden layer (B, N, D/4) for patch tokens (B, N, D); who else is alive does not matter."""
        x = nn.functional.gelu(self.fc1(self.norm(x)))
        return nn.functional.gelu(self.fc2(x))

    def logits(self, x: Tensor, alive: Tensor | None = None) -> Tensor:
        """Keep and freeze logits (B, N, 2), index 0 is keep."""
        return cast(Tensor, self.fc3(self.features(x, alive)))

    def forward(self, x: Tensor, alive: Tensor | None = None) -> Tensor:
        """Score (B, N) of patch tokens (B, N, D): log-odds of being kept, as one linear layer z0 - z1.

        `alive` (B, N), 1 or 0, says which tokens exist where gone ones are masked rather than left out:
        scores of the others are as if they were not there.
        """
        weight, bias = self.fc3.weight[:1] - self.fc3.weight[1:], self.fc3.bias[:1] - self.fc3.bias[1:]
        return nn.functional.linear(self.features(x, alive), weight, bias).squeeze(-1)


class DynamicVitSelector(MlpSelector):
    """DynamicViT's predictor: half of the channels are replaced by their mean over all tokens alive."""

    def __init__(self, width: int, conditioned: bool = False) -> None:
        super().__init__(width, conditioned)
        self.local = nn.Linear(width, width)

    def features(self, x: Tensor, alive: Tensor | None = None) -> Tensor:
        """Last hidden layer (B, N, D/4) for patch tokens (B, N, D), of which `alive` (B, N) exist."""
        x = nn.functional.gelu(self.local(self.norm(x)))
        half = x.shape[-1] // 2
        local, context = x[..., :half], _mean(x[..., half:], alive)
        context = context + 0.0 * local  # broadcasts over the tokens without an Expand node
        x = nn.functional.gelu(self.fc1(torch.cat([local, context], dim=-1)))
        return nn.functional.gelu(self.fc2(x))


def _mean(x: Tensor, alive: Tensor | None) -> Tensor:
    """Mean (B, 1, D) over the tokens (B, N, D) that are alive; zero where none is."""
    if alive is None:
        return x.mean(dim=1, keepdim=True)
    weights = alive.to(x.dtype).unsqueeze(-1)
    return (x * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1)


def create_selector(kind: SelectorKind, width: int, conditioned: bool = False) -> MlpSelector:
    """Build the selector `kind` for tokens of `width` channels."""
    return {"mlp": MlpSelector, "dynamicvit": DynamicVitSelector}[kind](width, conditioned)
