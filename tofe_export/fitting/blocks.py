"""Refit what blocks end in, so that with fewer keys they still give what the dense model gave.

With most keys gone, the kept tokens and the prefix attend to something else, and every block's result shifts.
The last layer of a block's MLP (`mlp.fc2`) can take most of that back: the residual to the dense model's
tokens at the same depth is regressed on the layer's inputs, ridge-penalised towards no change, block after
block, each behind those refitted before. Prefix tokens, which heads read, count as much as all patch tokens
of their stage several times over. The dense model that shares these weights changes too; `fit` says by how
much, and can leave them alone.

What a layer's output becomes in the block's result (LayerScale, LV-ViT's division) is asked of the block
itself, by adding 1 to the output; a block whose answer is not the same for all tokens has something behind
the layer that is not linear, and is left alone.

Sums of products stream, so memory does not grow with images. Shapes: n rows, B images in a batch, P prefix,
K kept and N patch tokens, D width, H hidden units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from tofe_export.fitting.original import Images, Original, at_most
from tofe_export.model.freezer import StageRecord, StaticFreezer
from tofe_export.model.tofe import ToFe

RIDGE = 1e-2  # share of the mean square of the inputs
PREFIX = 16.0
"""Weight of the prefix tokens together against the patch tokens of an image."""

_LINEAR = 1e-3  # how far a block's answer to adding 1 may differ between tokens

Say = Callable[[str], None]


class _Seen(NamedTuple):
    """One batch at one block."""

    inputs: Tensor
    """(B, P + K, H) of the MLP's last layer."""
    result: Tensor
    """(B, P + K, D) of the block."""
    kept: Tensor
    """(B, K) spatial ids of the patch tokens there."""


def refit(
    model: ToFe, original: Original, images: Images, keep: Sequence[int], count: int, say: Say
) -> list[int]:
    """Refit the blocks from the first selection on, in place, on the first `count` images; says which."""
    done: list[int] = []
    for number in range(model.structure.locations[0], len(model.backbone.blocks)):
        say(f"blocks: {number + 1} of {len(model.backbone.blocks)}")
        layer = last_layer(model.backbone.blocks[number])
        if layer is not None and _refit(model, original, images, keep, number, layer, count):
            done.append(number)
    return done


def last_layer(block: nn.Module) -> nn.Linear | None:
    """`mlp.fc2` of a block with a bias, where it has one."""
    layer = getattr(getattr(block, "mlp", None), "fc2", None)
    return layer if isinstance(layer, nn.Linear) and layer.bias is not None else None


@torch.no_grad()
def _refit(
    model: ToFe,
    original: Original,
    images: Images,
    keep: Sequence[int],
    number: int,
    layer: nn.Linear,
    count: int,
) -> bool:
    """Refit one block; False where something behind the layer is not linear."""
    size, scale = layer.in_features + 1, None
    gram = torch.zeros(size, size, dtype=torch.float64, device=layer.weight.device)
    cross = torch.zeros(size, layer.out_features, dtype=torch.float64, device=layer.weight.device)
    for batch in at_most(images, count):
        seen = _observe(model, batch, keep, number, layer)
        if scale is None:
            scale = _scale(model.backbone.blocks[number], layer, seen.result)
            if scale is None:
                return False
        (dense,) = original.tokens(batch, (number + 1,))
        left = (_rows(dense, seen.kept, model.backbone.prefix) - seen.result) / scale
        x = nn.functional.pad(seen.inputs, (0, 1), value=1.0).double()
        weights = _weights(seen, model.backbone.prefix)
        gram += torch.einsum("bti,t,btj->ij", x, weights, x)
        cross += torch.einsum("bti,t,btj->ij", x, weights, left.double())
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    change = torch.linalg.solve(gram, cross)
    layer.weight.add_(change[:-1].T)
    layer.bias.add_(change[-1])
    return True


def _observe(model: ToFe, batch: Tensor, keep: Sequence[int], number: int, layer: nn.Linear) -> _Seen:
    """What block `number` and its last layer see of a batch in the reduced model."""
    inputs: list[Tensor] = []
    results: list[Tensor] = []
    records: list[StageRecord] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, output: inputs.append(args[0])),
        model.backbone.blocks[number].register_forward_hook(
            lambda module, args, output: results.append(output)
        ),
    ]
    try:
        model(batch, StaticFreezer(keep), record=records)
    finally:
        for hook in hooks:
            hook.remove()
    stage = sum(location <= number for location in model.structure.locations) - 1
    return _Seen(inputs[0], results[0], records[stage].kept.to(batch.device))


def _scale(block: nn.Module, layer: nn.Linear, tokens: Tensor) -> Tensor | None:
    """What adding 1 to the layer's output adds to the block's result, (D,); None where tokens differ."""
    probe = tokens[:1]
    before = cast(Tensor, block(probe))
    hook = layer.register_forward_hook(lambda module, args, output: output + 1)
    try:
        change = cast(Tensor, block(probe)) - before
    finally:
        hook.remove()
    mean = change.mean(dim=(0, 1))
    noise = 1e-5 * before.abs().amax()  # rounding of the difference
    same = bool(((change - mean).abs() <= _LINEAR * mean.abs() + noise).all())
    return mean if same and bool((mean.abs() > 100 * noise).all()) else None


def _rows(tokens: Tensor, kept: Tensor, prefix: int) -> Tensor:
    """Prefix and kept patch tokens of (B, P + N, D): (B, P + K, D)."""
    index = kept.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    return torch.cat([tokens[:, :prefix], tokens[:, prefix:].gather(1, index)], dim=1)


def _weights(seen: _Seen, prefix: int) -> Tensor:
    """Weight of each token, (P + K,)."""
    weights = torch.ones(seen.inputs.shape[1], dtype=torch.float64, device=seen.inputs.device)
    if prefix:
        weights[:prefix] = PREFIX * seen.kept.shape[1] / prefix
    return weights
