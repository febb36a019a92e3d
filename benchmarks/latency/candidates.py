"""Rewrites that were tried and not kept, as small transformations that only the benchmark knows.

Those of the model change weights before it is traced; those of the graph stand in a list of passes. Each is
exact but for rounding, and each fails loudly on a model that it does not fit.
"""

from __future__ import annotations

import copy
from math import prod
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import torch
from onnx_graphsurgeon.ir.tensor import LazyValues
from torch import nn

from tofe_export.graph.emit import FREEZE, Emitter, detach, replace, shaped, template_nodes
from tofe_export.graph.passes.base import Pass, PassResult
from tofe_export.graph.passes.lower_concat import LowerConcatPass
from tofe_export.model.attention import ManualAttention
from tofe_export.model.selector import MlpSelector
from tofe_export.model.tofe import ToFe

_FORWARD, _INTERLEAVED = [0, 2, 1, 3], [1, 2, 0, 3]  # heads in front of tokens: from (B, T, ..), (T, B, ..)
_BACK = [2, 0, 1, 3]  # (B, H, T, d) to (T, B, H, d)


def scale_in_weights(model: ToFe) -> ToFe:
    """A copy whose attention scale lies in the weights of Q; `DropUnitScalesPass` removes what is left."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for module in changed.modules():
            if isinstance(module, ManualAttention):
                if not isinstance(module.q_norm, nn.Identity):
                    raise ValueError("a norm between Q and its scale: nothing can be folded")
                module.qkv.weight[: module.attn_dim] *= module.scale
                if module.qkv.bias is not None:
                    module.qkv.bias[: module.attn_dim] *= module.scale
                module.scale = 1.0
    return changed


def affine_in_weights(model: ToFe) -> ToFe:
    """A copy whose norms only normalise: their scale and shift lie in the linear layers that follow."""
    changed = copy.deepcopy(model)
    for block in changed.backbone.blocks:
        _fold_affine(block.norm1, block.attn.qkv)  # type: ignore[union-attr,arg-type]  # blocks of a plain ViT
        _fold_affine(block.norm2, block.mlp.fc1)  # type: ignore[union-attr,arg-type]  # as above
    for selector in changed.selectors:
        if type(selector) is not MlpSelector:
            raise ValueError(f"expected selectors of the kind mlp, found {type(selector).__name__}")
        _fold_affine(selector.norm, selector.fc1)
    return changed


@torch.no_grad()
def _fold_affine(norm: nn.LayerNorm, linear: nn.Linear) -> None:
    if linear.bias is None:
        linear.bias = nn.Parameter(torch.zeros(linear.out_features))
    linear.bias.add_(linear.weight @ norm.bias)
    linear.weight.mul_(norm.weight)
    norm.weight.fill_(1)
    norm.bias.zero_()


class DropUnitScalesPass(Pass):
    """Remove every product with the constant 1."""

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Let readers of the product read what is multiplied."""
        found = [node for node in graph.nodes if node.op == "Mul" and _unit(node) is not None]
        for node in found:
            replace(graph, node.outputs[0], next(t for t in node.inputs if t is not _unit(node)))
        detach(found)
        return PassResult(graph, bool(found))


def _unit(node: gs.Node) -> gs.Constant | None:
    for tensor in node.inputs:
        if isinstance(tensor, gs.Constant) and tensor.values.size == 1 and float(tensor.values.item()) == 1:
            return tensor
    return None


class OneGatherPass(LowerConcatPass):
    """The lowering `concat` with one Gather of all rows, kept ones in front, and two Slices of it."""

    def _freeze(self, graph: gs.Graph, node: gs.Node) -> None:
        kept, frozen = node.outputs[:2]
        x, stage, prefix = node.inputs[0], node.attrs["stage"], node.attrs["prefix"]
        wanted = bool(frozen.outputs)
        super()._freeze(graph, node)
        if not wanted or self.keep[stage] == x.shape[1] - prefix:
            return
        emit, end = Emitter(graph, f"stage{stage + 1}.one"), prefix + self.keep[stage]
        gathers = [
            reader for reader in graph.nodes if reader.name.startswith(f"stage{stage + 1}.freeze/Gather")
        ]
        parts = [g.outputs[0] for g in gathers if g.outputs[0].shape in (kept.shape, frozen.shape)]
        index = self.rows.index(emit, self._orders[stage], prefix, x.shape[1])
        everything = self.rows.gather(emit, x, index)
        everything.shape = x.shape
        for part, (start, stop) in zip(parts, ((0, end), (end, x.shape[1])), strict=True):
            replace(graph, part, shaped(emit.slice(everything, start, stop), part))


class WholeSelectorPass(Pass):
    """Let selectors score prefix tokens too, and cut those scores off, so that no patch is copied.

    Before the lowering.
    """

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Rewrite in front of every Freeze. Raises ValueError for selectors that look at all tokens."""
        nodes = template_nodes(graph, FREEZE)
        for node in nodes:
            self._rewrite(graph, node)
        return PassResult(graph, bool(nodes))

    def _rewrite(self, graph: gs.Graph, freeze: gs.Node) -> None:
        x, scores = freeze.inputs
        scope, prefix = f"selectors.{freeze.attrs['stage']}", freeze.attrs["prefix"]
        own = [node for node in graph.nodes if node.name.startswith(scope)]
        if any(node.op == "ReduceMean" for node in own):
            raise ValueError("expected selectors that judge each token by itself, found a mean over tokens")
        (norm,) = (node for node in own if node.op == "LayerNormalization")
        norm.inputs[0] = x
        for tensor in (tensor for node in own for tensor in node.outputs):
            tensor.shape = [tensor.shape[0], x.shape[1], *tensor.shape[2:]]
        cut = Emitter(graph, scope).slice(scores, prefix, x.shape[1])
        cut.shape = [x.shape[0], x.shape[1] - prefix]
        freeze.inputs = [x, cut]


class SharedNormPass(Pass):
    """Normalise a stage's tokens once: the selector reads all of them, the next block those that are kept.

    Behind the lowering. Raises ValueError unless both norms are the same function.
    """

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Rewrite every stage."""
        norms = [n for n in graph.nodes if n.op == "LayerNormalization" and n.name.startswith("selectors.")]
        for norm in norms:
            self._rewrite(graph, norm)
        return PassResult(graph, bool(norms))

    def _rewrite(self, graph: gs.Graph, norm: gs.Node) -> None:
        part = norm.inputs[0].inputs[0]  # the Slice behind the prefix
        x, emit = part.inputs[0], Emitter(graph, f"{norm.name.rpartition('/')[0]}.shared")
        gather, second = _next_norm(graph, x)
        if second.attrs != norm.attrs or not all(
            np.array_equal(_values(a), _values(b))
            for a, b in zip(norm.inputs[1:], second.inputs[1:], strict=True)
        ):
            raise ValueError(
                f"{norm.name} and {second.name} are not the same function: they cannot be shared"
            )
        normed = shaped(emit("LayerNormalization", x, *norm.inputs[1:], **norm.attrs), x)
        part.inputs = [normed, *part.inputs[1:]]
        replace(graph, norm.outputs[0], part.outputs[0])
        rows = emit.reshape(normed, -1, normed.shape[2])
        kept = emit("Gather", rows, gather.inputs[1], axis=0)
        replace(graph, second.outputs[0], shaped(kept, second.outputs[0]))
        detach([norm, second])


def _values(constant: gs.Constant) -> np.ndarray[Any, Any]:
    """A constant's values, read from the weights file without keeping them in the graph."""
    lazy = constant._values
    return np.asarray(lazy.load() if isinstance(lazy, LazyValues) else lazy)


def _next_norm(graph: gs.Graph, x: gs.Tensor) -> tuple[gs.Node, gs.Node]:
    """The Gather of rows of `x`, and the block's norm that reads what it takes."""
    for reshape in (node for node in x.outputs if node.op == "Reshape"):
        for gather in (node for node in reshape.outputs[0].outputs if node.op == "Gather"):
            for reader in gather.outputs[0].outputs:
                if reader.op == "LayerNormalization":
                    return gather, reader
    raise ValueError(f"expected a block's norm behind a Gather of {x.name}, found none")


class InterleavePass(Pass):
    """Order rows by token, then image: matrix products then read Q, K and V without copies at any batch.

    Behind `FlatRowsPass` and a clean-up, for dense graphs with a head that reads the CLS token.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Rewrite heads, what joins them again, and where rows become tokens or tokens rows."""
        for node in list(graph.nodes):
            if node.op == "Transpose" and node.attrs.get("perm") == _FORWARD and node.outputs:
                self._heads(graph, node)
        for node in list(graph.nodes):
            if node.op == "Slice" and node.outputs:
                self._first(graph, node)
        for node in [node for node in graph.nodes if node.op == "Reshape" and node.outputs]:
            self._border(graph, node)
        return PassResult(graph, True)

    def _heads(self, graph: gs.Graph, node: gs.Node) -> None:
        x, result = node.inputs[0], node.outputs[0]
        emit = Emitter(graph, node.name.rpartition("/")[0])
        _, tokens, heads, depth = x.shape if x.inputs[0].op == "Reshape" else result.shape
        if tokens == 1:
            return
        if x.inputs[0].op != "Reshape":  # behind attention: (B, H, T, d)
            rows = result.outputs[0].outputs[0].outputs[0].outputs[0]  # Reshape, then Reshape to rows
            back = emit("Transpose", x, perm=_BACK)
            back.shape = [tokens, self.batch, heads, depth]
            replace(graph, rows, shaped(emit.reshape(back, -1, heads * depth), rows))
            detach([node])
            return
        (split,) = result.outputs
        y = emit.reshape(x.inputs[0].inputs[0], tokens, self.batch, heads, depth)
        y.shape = [tokens, self.batch, heads, depth]
        parts = emit("Split", y, *split.inputs[1:], axis=2, count=len(split.outputs))
        for part, old in zip(parts, list(split.outputs), strict=True):
            part.shape = [tokens, self.batch, old.shape[1], depth]
            replace(graph, old, shaped(emit("Transpose", part, perm=_INTERLEAVED), old))
        detach([split, node])

    def _first(self, graph: gs.Graph, node: gs.Node) -> None:
        """The CLS tokens are the first rows."""
        x, result = node.inputs[0], node.outputs[0]
        if x.inputs and x.inputs[0].op == "Reshape" and len(x.inputs[0].inputs[0].shape) == 2:
            if result.shape[1] != 1:
                raise ValueError(f"{node.name}: expected a Slice of the CLS token, found {result.shape}")
            emit = Emitter(graph, node.name)
            rows = emit.slice(x.inputs[0].inputs[0], 0, self.batch, axis=0)
            rows.shape = [self.batch, result.shape[2]]
            replace(graph, result, shaped(emit.reshape(rows, self.batch, 1, -1), result))
            detach([node])

    def _border(self, graph: gs.Graph, node: gs.Node) -> None:
        """Tokens (B, T, D) become rows, T > 1: at the stem."""
        x, rows = node.inputs[0], node.outputs[0]
        if x.shape is None or len(x.shape) != 3 or x.shape[1] == 1 or len(rows.shape) != 2:
            return
        if prod(x.shape[:2]) == rows.shape[0]:
            emit = Emitter(graph, node.name)
            turned = emit("Transpose", x, perm=[1, 0, 2])
            turned.shape = [x.shape[1], x.shape[0], x.shape[2]]
            node.inputs = [turned, node.inputs[1]]
