"""Layers held in float32 by name, for TensorRT 8.6, where a precision is a wish of the whole network.

The manifest names ONNX nodes (the selectors up to TopK, LayerNormalization). NVIDIA's 8.6 parser calls a
layer after its node, `NODE_17` where a node becomes several, and gives a node's last output its ONNX name; it
leaves LayerNormalization unnamed, but sets that layer's own arithmetic to float32 (`stash_type` 1) in its
importer (builtin_op_importers.cpp, 8.6-GA). So names are matched as far as they go, and what must not fail is
followed in the network itself: from every TopK back to a held layer, everything on the way is held too (a
probe's forced scores, the reordering of `concat`); a way that reaches the picture instead is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tofe_export.errors import BuildFailed, UsageError
from tofe_export.trt.api import Layer, Network, Tensor, Trt
from tofe_export.trt.compat import Features


def hold_float32(trt: Trt, features: Features, network: Network, nodes: Iterable[str]) -> list[str]:
    """Hold the layers of these nodes in float32; gives the names of those held.

    Raises UsageError on a TensorRT without layer precisions, BuildFailed when a selection would still be
    computed in half precision.
    """
    if not features.weak_types:
        raise UsageError(f"TensorRT {features.text} has no layer precisions: its types come from the graph")
    wanted = set(nodes)
    names = {str(layer.name) for layer in layers(network) if _belongs(layer, wanted)}
    names |= _before_selections(trt, network, names)
    held = [layer for layer in layers(network) if layer.name in names]
    read_by_held = {str(tensor.name) for layer in held for tensor in inputs(layer)}
    for layer in held:
        if not _computes_floats(trt, layer):
            continue
        layer.precision = trt.DataType.FLOAT
        for index, tensor in enumerate(outputs(layer)):
            if tensor.name in read_by_held and is_float(trt, tensor):
                layer.set_output_type(index, trt.DataType.FLOAT)
    return [str(layer.name) for layer in held]


def layers(network: Network) -> Iterator[Layer]:
    """All layers, in order."""
    for index in range(network.num_layers):
        layer: Layer = network.get_layer(index)
        yield layer


def inputs(layer: Layer) -> Iterator[Tensor]:
    """The tensors a layer reads; optional ones that are absent are left out."""
    for index in range(layer.num_inputs):
        tensor: Tensor = layer.get_input(index)
        if tensor is not None:
            yield tensor


def outputs(layer: Layer) -> Iterator[Tensor]:
    """The tensors a layer makes."""
    for index in range(layer.num_outputs):
        tensor: Tensor = layer.get_output(index)
        yield tensor


def is_float(trt: Trt, tensor: Tensor) -> bool:
    """Whether a tensor of an 8.6 network holds numbers that a precision applies to."""
    return bool(tensor.dtype in (trt.DataType.FLOAT, trt.DataType.HALF))


def _belongs(layer: Layer, wanted: set[str]) -> bool:
    name = str(layer.name)
    made = [str(tensor.name) for tensor in outputs(layer)]
    if name in wanted or not wanted.isdisjoint(made):
        return True
    node = re.fullmatch(r"(.+)_\d+", name)
    # a node's further layers have no ONNX name on their outputs; another node that is called NAME_17 has
    return bool(node and node[1] in wanted and set(made) == {f"{name}_output"})


def _before_selections(trt: Trt, network: Network, held: set[str]) -> set[str]:
    """Names of layers between held ones and every TopK, constants included."""
    makers = {str(tensor.name): layer for layer in layers(network) for tensor in outputs(layer)}
    between: set[str] = set()
    for topk in layers(network):
        if topk.type != trt.LayerType.TOPK:
            continue
        between.add(str(topk.name))
        waiting = [str(tensor.name) for tensor in inputs(topk) if is_float(trt, tensor)]
        while waiting:
            name = waiting.pop()
            if name not in makers:
                raise BuildFailed(
                    f"{topk.name} selects by scores that cannot be held in float32: expected their layers "
                    f"under the names in the manifest, found none on the way from {name!r}. Scores in half "
                    "precision make ties: build --fp32, or use TensorRT 10 or newer"
                )
            maker: Layer = makers[name]
            if maker.name in held or maker.name in between:
                continue
            between.add(str(maker.name))
            waiting += [str(tensor.name) for tensor in inputs(maker) if is_float(trt, tensor)]
    return between


def _computes_floats(trt: Trt, layer: Layer) -> bool:
    """Whether a precision can be set: shapes and indices are integers, a constant has its weights' type."""
    if layer.type == trt.LayerType.CONSTANT or layer.type == trt.LayerType.SHAPE:
        return False
    return any(is_float(trt, tensor) and not tensor.is_shape_tensor for tensor in outputs(layer))
