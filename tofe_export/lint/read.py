"""From a path or a model to a model that can be checked: weights left behind, types filled in.

External data is never opened, and large weights in the file itself are dropped before types are inferred:
checks need names, types, shapes and the small constants (K, axes, zero points), so a model of many gigabytes
costs what its graph costs. Inference is the non-strict one of the onnx package; what it cannot tell stays
unknown, and the rules then stay silent rather than guess.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from tofe_export.errors import InputError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

SMALL = 65536
"""Elements of a constant whose values rules may look at."""
LIMIT = 2**31 - 1
"""Bytes of an ONNX file: protobuf takes no more."""


def read_model(path: Path) -> ModelProto:
    """Read an ONNX file without its external data.

    Raises:
        InputError: not there, not readable, truncated, too large, or something else than an ONNX model.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # comes with onnx, without types
    from onnx import ModelProto

    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise InputError(
                f"{path}: expected an ONNX file of at most 2 GiB (more than protobuf can read), found "
                f"{size / 2**30:.1f} GiB: save the weights as external data"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise InputError(
            f"{path}: expected an ONNX model, found {_what_is(data)}. Export it or copy it again"
        ) from error
    if not (model.graph.node or model.graph.output) or not model.opset_import:
        raise InputError(
            f"{path}: expected an ONNX model, found {_what_is(data)} (no nodes or no opset). "
            "Export it or copy it again"
        )
    return model


def prepared(model: ModelProto) -> ModelProto:
    """A copy without large weights whose value_info holds every type and shape that can be inferred."""
    from onnx import ModelProto, shape_inference

    light = ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    graph.initializer.extend(_light(tensor) for tensor in model.graph.initializer)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    if _is_complete(graph):
        return light
    try:
        return shape_inference.infer_shapes(light, data_prop=True)
    except (shape_inference.InferenceError, ValueError):  # a model that breaks the standard: rules say how
        return light


def _is_complete(graph: GraphProto) -> bool:
    """Whether the file itself says every shape; bodies of nodes never count as such."""
    known = {v.name for v in (*graph.value_info, *graph.output) if v.type.tensor_type.HasField("shape")}
    return all(
        all(output in known for output in node.output if output)
        and not any(found.HasField("g") or found.graphs for found in node.attribute)
        for node in graph.node
    )


def _light(tensor: TensorProto) -> TensorProto:
    """The same tensor; one that is large or outside the file without its data."""
    from onnx import TensorProto

    outside = tensor.data_location == TensorProto.EXTERNAL
    if not outside and math.prod(tensor.dims) <= SMALL:
        return tensor
    bare = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    bare.data_location = TensorProto.EXTERNAL
    entry = bare.external_data.add()
    entry.key, entry.value = "location", "left behind"
    return bare


def _what_is(data: bytes) -> str:
    if not data:
        return "an empty file"
    if data.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer"
    if data[:4] == b"ftrt":
        return "a TensorRT engine"
    if data[:2] == b"PK":
        return "a zip archive (a PyTorch checkpoint?)"
    return f"{len(data)} bytes that are truncated or of another kind"
