"""Token approximators: what a frozen token would have become (Eq. 6), in four structures (Table IV).

`bottleneck` and `identity` treat each token by itself, so they may run on the frozen rows alone.
`depthwise` and `block` look at other tokens and therefore run on all N stage-entry tokens in spatial
order (decision 1). The learned per-token and convolutional structures start as the identity: their last
layer is zero. `block` starts as a copy of the block that the frozen tokens miss last.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Literal, cast

from torch import Tensor, nn

ApproximatorKind = Literal["bottleneck", "identity", "depthwise", "block"]


class Approximator(nn.Module, ABC):
    """X + Approx(X). `per_token` says that every row is computed from itself alone."""

    per_token = True

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Approximate tokens (B, n, D) -> (B, n, D)."""


class BottleneckApproximator(Approximator):
    """x + W2 GELU(W1 x), D -> D/2 -> D: the paper's choice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width // 2)
        self.fc2 = nn.Linear(width // 2, width)
        nn.init.zeros_(self.fc2.weight)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Approximate tokens (B, n, D) -> (B, n, D)."""
        return x + cast(Tensor, self.fc2(nn.functional.gelu(self.fc1(x))))


class IdentityApproximator(Approximator):
    """Frozen tokens come back as they went."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`."""
        return x


class DepthwiseApproximator(Approximator):
    """x + a depth-wise 3x3 convolution over the patch grid."""

    per_token = False

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(cast(Tensor, self.conv.bias))

    def forward(self, x: Tensor) -> Tensor:
        """Approximate all N tokens in spatial order, (B, N, D) -> (B, N, D)."""
        image = x.transpose(1, 2).unflatten(2, self.grid)  # (B, D, rows, columns)
        return x + cast(Tensor, self.conv(image)).flatten(2).transpose(1, 2)


class BlockApproximator(Approximator):
    """One transformer block of the backbone's own kind, on the patch tokens."""

    per_token = False

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = copy.deepcopy(block)

    def forward(self, x: Tensor) -> Tensor:
        """Approximate all N tokens, (B, N, D) -> (B, N, D)."""
        return cast(Tensor, self.block(x))


def create_approximator(
    kind: ApproximatorKind, width: int, grid: tuple[int, int], block: nn.Module
) -> Approximator:
    """Build the approximator `kind`; `block` is the backbone's block just before the recovery."""
    if kind == "bottleneck":
        return BottleneckApproximator(width)
    if kind == "identity":
        return IdentityApproximator()
    if kind == "depthwise":
        return DepthwiseApproximator(width, grid)
    return BlockApproximator(block)
