"""Let a traced graph take camera frames, uint8 (B, H, W, 3), and normalise them in its stem.

    x = Transpose(Cast(frames))                       (B, 3, H, W), 0 to 255
    Conv((x / 255 - mean) / std, W) + b  =  Conv(x - 255 mean, W') + b          W' = W / (255 std)
                                         =  Conv(x, W') + b - sum(W mean / std)

so the normalisation costs nothing where the first layer is a Conv without padding, as patch embeddings are.
Zero padding stands for the mean colour, which a bias cannot express at the border: a padded Conv (LV-ViT's
stem) keeps the subtraction, one Sub, and a graph that begins with anything else keeps Sub and Mul.

TensorRT wants the Cast to read the input itself, and to give float32 or float16 (NvInfer.h, kUINT8).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from tofe_export.preprocess import Preprocessing

Doubles = npt.NDArray[np.float64]
SCOPE = "frames"
BYTES, FLOATS = ir.TensorType(ir.DataType.UINT8), ir.TensorType(ir.DataType.FLOAT)


def take_frames(graph: ir.Graph, pre: Preprocessing) -> None:
    """Replace the input `images`, float32 (B, 3, H, W), by one of the same name, uint8 (B, H, W, 3)."""
    images = graph.inputs[0]
    assert images.shape is not None  # of the trace's own input
    batch, channels, height, width = images.shape
    readers = list(images.uses())
    frames = ir.Value(name=images.name, type=BYTES, shape=ir.Shape([batch, height, width, channels]))
    images.name = f"{SCOPE}/images"  # gone, as soon as nobody reads it
    graph.inputs[0] = frames
    new = _Front(graph, images.shape)
    x = new.node("Cast", frames, to=ir.DataType.FLOAT)
    x.shape = frames.shape
    x = new.node("Transpose", x, perm=[0, 3, 1, 2])
    mean, std = 255 * np.array(pre.mean), 255 * np.array(pre.std)
    conv = _first_conv(images)
    padded = conv is None or _is_padded(conv)
    if conv is not None:
        _fold(graph, conv, mean, std, offset=not padded)
    if padded:
        x = new.node("Sub", x, new.constant("mean", mean))
    if conv is None:
        x = new.node("Mul", x, new.constant("scale", 1 / std))
    for node, place in readers:
        node.replace_input_with(place, x)


class _Front:
    """Adds nodes at the front of a graph, in the order in which they are asked for."""

    def __init__(self, graph: ir.Graph, shape: ir.Shape) -> None:
        self._graph, self._shape = graph, shape
        self._before = graph[0]

    def node(self, operator: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:  # noqa: ANN401 - of any kind
        """Emit one node on float32 (B, 3, H, W); returns its output."""
        node = ir.node(operator, list(inputs), attributes=attributes, name=f"{SCOPE}/{operator}")
        out = node.outputs[0]
        out.name, out.shape, out.type = f"{SCOPE}/{operator}:out", self._shape, FLOATS
        self._graph.insert_before(self._before, node)
        return out

    def constant(self, name: str, values: Doubles) -> ir.Value:
        """One number per channel, (1, 3, 1, 1)."""
        return _initializer(self._graph, f"{SCOPE}/{name}", values.reshape(1, -1, 1, 1))


def _first_conv(images: ir.Value) -> ir.Node | None:
    """The Conv that alone reads the images' values, if its weights may be changed; else None."""
    readers = [node for node, _ in images.uses() if node.op_type != "Shape"]
    if len(readers) != 1 or readers[0].op_type != "Conv":
        return None
    conv, images_read = readers[0], images.shape
    weights, biases = conv.inputs[1], conv.inputs[2:3]
    known = [value for value in (weights, *biases) if value is not None]
    own = all(value.is_initializer() and len(list(value.uses())) == 1 for value in known)
    assert weights is not None  # a Conv has weights
    assert images_read is not None  # of the trace's own input
    return conv if own and weights.shape is not None and weights.shape[1] == images_read[1] else None


def _is_padded(conv: ir.Node) -> bool:
    automatic = conv.attributes.get_string("auto_pad", "NOTSET")
    return automatic not in ("NOTSET", "VALID") or any(conv.attributes.get_ints("pads", ()) or ())


def _fold(graph: ir.Graph, conv: ir.Node, mean: Doubles, std: Doubles, *, offset: bool) -> None:
    """Divide the weights by `std`, and with `offset` take what the weights give for `mean` off the bias."""
    weights = conv.inputs[1]
    assert weights is not None  # a Conv has weights
    folded = _values(weights) / std.reshape(1, -1, 1, 1)  # (out, 3, h, w)
    _set(weights, folded)
    if not offset:
        return
    shift = -np.einsum("ochw,c->o", folded, mean)
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    if bias is not None:
        _set(bias, _values(bias) + shift)
    else:
        conv.resize_inputs(3)
        conv.replace_input_with(2, _initializer(graph, f"{conv.name}:bias", shift))


def _values(value: ir.Value) -> Doubles:
    assert value.const_value is not None  # initializers hold values
    return np.asarray(value.const_value.numpy(), np.float64)


def _set(value: ir.Value, values: Doubles) -> None:
    value.const_value = ir.tensor(values.astype(np.float32), name=value.name)


def _initializer(graph: ir.Graph, name: str, values: Doubles) -> ir.Value:
    tensor = ir.tensor(values.astype(np.float32), name=name)
    value = ir.Value(name=name, type=FLOATS, shape=ir.Shape(values.shape), const_value=tensor)
    graph.initializers[name] = value
    return value
