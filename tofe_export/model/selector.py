"""Token selectors: one score per patch token (Eq. 8).

The paper feeds `Softmax(MLP(X))` to the sort. Its order is the order of the logit difference z0 - z1, where
index 0 means *keep* (decision 5; token_reduction decision 22), so that difference is what a selector returns.
It always computes in float32 (decision 6).
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn

SelectorKind = Literal["mlp", "dynamicvit"]


class MlpSelector(nn.Module):
    """LN, then a 3-layer MLP D -> D/2 -> D/4 -> 2; the paper's choice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, width // 2)
        self.fc2 = nn.Linear(width // 2, width // 4)
        self.fc3 = nn.Linear(width // 4, 2)

    def features(self, x: Tensor) -> Tensor:
        """Last hidden layer (B, N, D/4) for patch tokens (B, N, D)."""
        x = nn.functional.gelu(self.fc1(self.norm(x)))
        return nn.functional.gelu(self.fc2(x))

    def logits(self, x: Tensor) -> Tensor:
        """Keep and freeze logits (B, N, 2), index 0 is keep."""
        return cast(Tensor, self.fc3(self.features(x)))

    def forward(self, x: Tensor) -> Tensor:
        """Score (B, N) of patch tokens (B, N, D): log-odds of being kept, as one linear layer z0 - z1."""
        weight, bias = self.fc3.weight[:1] - self.fc3.weight[1:], self.fc3.bias[:1] - self.fc3.bias[1:]
        return nn.functional.linear(self.features(x), weight, bias).squeeze(-1)


class DynamicVitSelector(MlpSelector):
    """DynamicViT's predictor: half of the channels are replaced by their mean over all tokens given."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.local = nn.Linear(width, width)

    def features(self, x: Tensor) -> Tensor:
        """Last hidden layer (B, N, D/4) for patch tokens (B, N, D)."""
        x = nn.functional.gelu(self.local(self.norm(x)))
        half = x.shape[-1] // 2
        local, context = x[..., :half], x[..., half:].mean(dim=1, keepdim=True)
        context = context + 0.0 * local  # broadcasts over the tokens without an Expand node
        x = nn.functional.gelu(self.fc1(torch.cat([local, context], dim=-1)))
        return nn.functional.gelu(self.fc2(x))


def create_selector(kind: SelectorKind, width: int) -> MlpSelector:
    """Build the selector `kind` for tokens of `width` channels."""
    return {"mlp": MlpSelector, "dynamicvit": DynamicVitSelector}[kind](width)
