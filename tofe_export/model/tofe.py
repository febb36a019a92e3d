"""ToFe: a backbone with selectors and approximators, and one forward for every way to freeze.

    embed -> blocks[0 : l_1] -> stage 1 -> ... -> stage S -> norm -> head

Stage s scores all its tokens, keeps some, runs blocks l_s .. l_{s+1} - 1 on them, and, before the next
selection, recovers the frozen ones through the approximator (Eq. 5-7). Recovery happens before every
selection except the first: Algorithm 1 line 3 has the condition wrong at both ends (decision 8 of
token_reduction 3.2). What the last stage freezes is dropped, unless all tokens are asked for.

Without reuse (the paper's ablation, Table II) frozen tokens are gone: later stages select among survivors.

A conditioned model was trained for several budgets at once: `set_budget` says which one it works for.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from tofe_export.budget import Cost, dense_macs, gmacs, printed
from tofe_export.errors import UsageError
from tofe_export.model.approximator import Approximator, ApproximatorKind, create_approximator
from tofe_export.model.backbone import Backbone
from tofe_export.model.freezer import Freezer, Split, StageRecord
from tofe_export.model.selector import MlpSelector, SelectorKind, create_selector

_GAIN = 8.0
"""Of the budget's scalar: with 1, two budgets a fifth of the dense cost apart were hardly told apart."""


@dataclass(frozen=True)
class Structure:
    """The choices that the paper compares (Tables II-IV)."""

    locations: tuple[int, ...]
    """Block (0-based) before which each selection happens, increasing."""
    selector: SelectorKind = "mlp"
    approximator: ApproximatorKind = "bottleneck"
    reuse: bool = True
    conditioned: bool = False
    """Whether the selectors know the budget, so that one model serves several."""

    def to_json(self) -> dict[str, Any]:
        """Plain data for the checkpoint."""
        return asdict(self) | {"locations": list(self.locations)}


class ToFe(nn.Module):
    """A backbone that freezes and reuses tokens."""

    def __init__(self, backbone: Backbone, structure: Structure) -> None:
        super().__init__()
        _check_locations(structure.locations, len(backbone.blocks))
        self.backbone, self.structure = backbone, structure
        stages, width = len(structure.locations), backbone.width
        self.selectors = nn.ModuleList(
            create_selector(structure.selector, width, structure.conditioned) for _ in range(stages)
        )
        self.approximators = nn.ModuleList()
        if structure.reuse:
            self.approximators.extend(
                create_approximator(structure.approximator, width, backbone.grid, backbone.blocks[end - 1])
                for end in structure.locations[1:]
            )
        for selector in self.selectors:
            _initialise(selector)

    def set_budget(self, budget_gmacs: float | None) -> None:
        """Tell the selectors which budget to work for; nothing happens where they are not conditioned.

        None is a budget of half the dense cost, for which conditioned selectors add nothing.
        """
        if not self.structure.conditioned:
            return
        b = condition_of(self.cost(), budget_gmacs)
        for selector in self.selectors:
            cast(MlpSelector, selector).set_condition(b)

    @property
    def stages(self) -> int:
        """S, the number of selections."""
        return len(self.structure.locations)

    def train(self, mode: bool = True) -> ToFe:
        """Switch to training, where batch norms keep their statistics: the stem is folded at export,
        and the teacher's stem must stay the student's (decision 24 of token_reduction 3.2).
        """
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def cost(self) -> Cost:
        """Return the prices that `budget.py` computes with."""
        backbone, structure = self.backbone, self.structure
        head = backbone.head_cost()
        return Cost(
            tokens=backbone.tokens,
            prefix=backbone.prefix,
            width=backbone.width,
            depth=len(backbone.blocks),
            attention_width=backbone.attention_width,
            token_macs=backbone.token_macs(),
            stem_macs=backbone.stem_macs(),
            head_macs=head.fixed,
            head_token_macs=head.per_token,
            locations=structure.locations,
            selector=structure.selector,
            approximator=structure.approximator,
            reuse=structure.reuse,
            last_rows=backbone.head_rows or 0,
        )

    def forward(
        self,
        images: Tensor,
        freezer: Freezer,
        output: str = "head",
        record: list[StageRecord] | None = None,
        begun: Tensor | None = None,
    ) -> Tensor:
        """Run the model on images (B, 3, H, W), with `freezer` deciding which tokens each stage processes.

        Returns the head's output (B, C or D), or, with `output="tokens"`, all final-normed patch tokens in
        spatial order (B, N, D), those frozen in the last stage as they last were. If `record` is a list,
        every stage appends what it decided. `begun` is what `begin` gave for these images, if it is known.
        """
        x = self.begin(images) if begun is None else begun
        prefix, splits = self.backbone.prefix, []
        ids = torch.arange(self.backbone.tokens).expand(len(images), -1) if record is not None else None
        ends = (*self.structure.locations[1:], len(self.backbone.blocks))
        for stage, (start, end) in enumerate(zip(self.structure.locations, ends, strict=True)):
            scores = self._scores(stage, x[:, prefix:])
            split = freezer.freeze(x, scores, stage)
            if record is not None and ids is not None:
                kept = ids.gather(1, split.order[:, : split.kept.shape[1] - prefix].cpu())
                record.append(StageRecord(scores, ids, kept))
                ids = ids if self.structure.reuse else kept
            entry, x = x, self._run(split.kept, start, end)
            if self.structure.reuse and stage < self.stages - 1:
                x = self._recover(stage, freezer, entry, x, split)
            else:
                splits.append(split)
        if output == "tokens":
            return self._all_tokens(x, freezer, splits)
        return self.backbone.head(self.backbone.final_norm(x))

    def begin(self, images: Tensor) -> Tensor:
        """Tokens before the first selection (B, P + N, D): the same for every budget."""
        return self._run(self.backbone.embed(images), 0, self.structure.locations[0])

    def _run(self, x: Tensor, start: int, end: int) -> Tensor:
        for block in self.backbone.blocks[start:end]:
            x = block(x)
        return x

    def _scores(self, stage: int, patches: Tensor) -> Tensor:
        """Scores in float32 whatever the surroundings compute in (decision 6)."""
        device = patches.device.type
        # Entered only where it matters: the exporter loses the module names of what runs inside.
        full = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
        with full:
            return cast(
                Tensor, self.selectors[stage](patches.to(torch.promote_types(patches.dtype, torch.float32)))
            )

    def _recover(self, stage: int, freezer: Freezer, entry: Tensor, x: Tensor, split: Split) -> Tensor:
        """Eq. 6-7: approximate what was frozen, and bring it back."""
        approximator = cast(Approximator, self.approximators[stage])
        if approximator.per_token:
            return freezer.thaw(x, approximator(split.frozen), split, every_row=False)
        everything = approximator(entry[:, self.backbone.prefix :])
        return freezer.thaw(x, everything, split, every_row=True)

    def _all_tokens(self, x: Tensor, freezer: Freezer, splits: Iterable[Split]) -> Tensor:
        """Bring back, as they last were, the tokens that are still frozen after the last block."""
        for split in reversed(list(splits)):
            x = freezer.thaw(x, split.frozen, split, every_row=False)
        patches = freezer.restore(x)[:, self.backbone.prefix :]
        return self.backbone.final_norm(patches)


def condition_of(cost: Cost, budget_gmacs: float | None) -> float:
    """The scalar b that stands for a budget: 8 for the dense model's cost, 0 for half of it, or for None.

    Budgets count as they are printed, so that all that carries a variant's name means the same b.
    """
    if budget_gmacs is None:
        return 0.0
    return _GAIN * (2 * float(printed(budget_gmacs)) / gmacs(dense_macs(cost)) - 1)


def _check_locations(locations: tuple[int, ...], depth: int) -> None:
    increasing = all(a < b for a, b in pairwise(locations))
    if not locations or not increasing or locations[0] < 0 or locations[-1] >= depth:
        raise UsageError(
            f"selections must sit before increasing blocks between 0 and {depth - 1}, got {list(locations)}"
        )


def _initialise(selector: nn.Module) -> None:
    """DynamicViT's start: truncated normal 0.02 and zero biases, so every token is kept with p = 0.5."""
    for module in selector.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
