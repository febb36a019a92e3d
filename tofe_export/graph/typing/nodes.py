"""What typing must know about single nodes: which tensors are float, and what kind of work they do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from tofe_export.graph.typing.half import Half

MOVEMENT = frozenset(
    {
        *("Reshape", "Transpose", "Slice", "Split", "Gather", "GatherND", "GatherElements", "Concat", "Pad"),
        *("ScatterND", "ScatterElements", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Expand", "Tile"),
    }
)
"""Copy numbers without computing: they take any type."""
ELEMENTWISE = frozenset(
    {
        *("Add", "Sub", "Mul", "Div", "Relu", "Erf", "Gelu", "Tanh", "Sigmoid", "Neg", "Abs", "Sqrt", "Pow"),
        *("Exp", "Clip", "Min", "Max", "Where"),
    }
)
"""Cheap in any type: not worth two Casts between float32 nodes."""
NORMS = frozenset(("LayerNormalization", "BatchNormalization", "InstanceNormalization"))
FLOAT32 = int(onnx.TensorProto.FLOAT)
BFLOAT16 = int(onnx.TensorProto.BFLOAT16)


def is_float(tensor: gs.Tensor) -> bool:
    """Whether a tensor of the float32 graph holds floats."""
    dtype = tensor.dtype
    return dtype is not None and not isinstance(dtype, int) and np.dtype(dtype) == np.float32


def float_inputs(node: gs.Node) -> list[gs.Tensor]:
    """Float inputs, constants included."""
    return [tensor for tensor in node.inputs if is_float(tensor)]


def activations(node: gs.Node) -> list[gs.Tensor]:
    """Float inputs that depend on the images."""
    return [tensor for tensor in float_inputs(node) if not isinstance(tensor, gs.Constant)]


def float_outputs(node: gs.Node) -> list[gs.Tensor]:
    """Float outputs."""
    return [tensor for tensor in node.outputs if is_float(tensor)]


def works_on_floats(node: gs.Node) -> bool:
    """Whether the node has a float type to choose."""
    return bool(float_inputs(node) or float_outputs(node))


def reads_bytes(node: gs.Node) -> bool:
    """Whether the node reads uint8, as the Cast of a camera frame does."""
    return any(t.dtype is not None and t.dtype == np.uint8 for t in node.inputs)


def takes(node: gs.Node, half: Half, opset: int) -> bool:
    """Whether ONNX lets the node compute in `half`: its floats are of one type, and it may be that one."""
    schema = onnx.defs.get_schema(node.op, opset, node.domain or "")
    kinds = {_kind(schema.inputs, i) for i, tensor in enumerate(node.inputs) if is_float(tensor)}
    kinds |= {_kind(schema.outputs, i) for i, tensor in enumerate(node.outputs) if is_float(tensor)}
    if len(kinds) > 1:
        return False
    allowed = {
        constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints
    }
    return all(half.schema_type in allowed.get(kind, [kind]) for kind in kinds)


def _kind(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], place: int) -> str:
    """The type variable of an input or output; the last parameter may be variadic."""
    return str(parameters[min(place, len(parameters) - 1)].type_str)
