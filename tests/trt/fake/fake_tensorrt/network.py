"""An ONNX graph as the layers and tensors that the FAKE shows: one layer per node, one per weight.

Names follow NVIDIA's 8.6 importer as far as it matters to our code: a layer is called after its node,
LayerNormalization stays unnamed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

KINDS = {
    "TopK": "TOPK",
    "LayerNormalization": "NORMALIZATION",
    "MatMul": "MATRIX_MULTIPLY",
    "Gemm": "MATRIX_MULTIPLY",
    "Conv": "CONVOLUTION",
    "Softmax": "SOFTMAX",
    "Reshape": "SHUFFLE",
    "Transpose": "SHUFFLE",
    "Flatten": "SHUFFLE",
    "Gather": "GATHER",
    "GatherND": "GATHER",
    "GatherElements": "GATHER",
    "ScatterND": "SCATTER",
    "ScatterElements": "SCATTER",
    "Concat": "CONCATENATION",
    "Slice": "SLICE",
    "Cast": "CAST",
    "Shape": "SHAPE",
    "Where": "SELECT",
    "ReduceMean": "REDUCE",
    "Constant": "CONSTANT",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
}
TYPES: dict[int, str] = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}


@dataclass(frozen=True)
class Layer:
    name: str
    kind: str
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True)
class Network:
    """What a plan is made of; `model` is the ONNX file with its weights inside."""

    model: bytes
    inputs: list[str]
    layers: list[Layer]
    tensors: dict[str, tuple[int, tuple[int, ...]]]  # element type, shape with -1 for dynamic sizes


def type_name(fake: Any, elem: int) -> str:
    """TensorRT's name of an ONNX type; 8.x narrows int64."""
    name = TYPES[elem]
    return "INT32" if name == "INT64" and not hasattr(fake.DataType, "INT64") else name


def read_network(fake: Any, model: onnx.ModelProto) -> Network:
    """Layers and tensors of a graph whose weights are loaded."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    tensors = {item.name: (item.data_type, tuple(item.dims)) for item in inferred.initializer}
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        shape = tuple(
            d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim
        )
        tensors[value.name] = (value.type.tensor_type.elem_type, shape)
    layers = [Layer(item.name, "CONSTANT", [], [item.name]) for item in inferred.initializer]
    for index, node in enumerate(inferred.node):
        unnamed = f"(Unnamed Layer* {index}) [Normalization]"
        name = unnamed if node.op_type == "LayerNormalization" else node.name
        kind = KINDS.get(node.op_type, "ELEMENTWISE")
        outputs = [name for name in node.output if name in tensors]
        layers.append(Layer(name, kind, list(node.input), outputs))
    weights = {item.name for item in inferred.initializer}
    inputs = [value.name for value in inferred.input if value.name not in weights]
    return Network(model.SerializeToString(), inputs, layers, tensors)


def without_bf16(model: bytes) -> bytes:
    """The same graph with float32 in the place of bfloat16, which ONNX Runtime's processor code lacks."""
    graph = onnx.ModelProto.FromString(model)
    half, full = TensorProto.BFLOAT16, TensorProto.FLOAT
    for at, stored in enumerate(graph.graph.initializer):
        if stored.data_type == half:
            values = onnx.numpy_helper.to_array(stored).astype(np.float32)
            graph.graph.initializer[at].CopyFrom(onnx.numpy_helper.from_array(values, stored.name))
    for node in graph.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == half:
                attribute.i = full
            assert attribute.t.data_type != half, f"the FAKE knows no bfloat16 in an attribute of {node.name}"
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = full
    return bytes(graph.SerializeToString())
