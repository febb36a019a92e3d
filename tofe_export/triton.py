"""Triton's `config.pbtxt` of a variant, for its ONNX Runtime backend or for an engine of it.

Triton adds a batch dimension in front of `dims` where `max_batch_size` is above 0, and demands that the
model has a dynamic one there. So a graph of fixed batch is a model without batching (`max_batch_size: 0`)
whose dims are whole shapes, and one of dynamic batch takes up to what its engine was built for.
"""

from __future__ import annotations

from collections.abc import Sequence

from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError
from tofe_export.manifest import DYNAMIC, Variant
from tofe_export.trt.request import DEFAULT_PROFILE

PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}


def triton_config(bundle: Bundle, variant: Variant, backend: str) -> str:
    """The text of `config.pbtxt`; `backend` is "onnxruntime" or "tensorrt".

    Raises UsageError (an engine of a graph that is meant for no TensorRT) and BundleError (no reference).
    """
    if backend == "tensorrt" and not variant.targets:
        raise UsageError(
            f"{variant.name} is meant for no TensorRT, since its sizes depend on the image: use "
            "--triton onnxruntime, or another variant"
        )
    manifest = bundle.manifest
    output = bundle.reference().output(variant.reference).shape[1:]
    kind = "TYPE_UINT8" if manifest.model.takes_frames else "TYPE_FP32"
    dynamic = variant.batch == DYNAMIC
    front = () if dynamic else (int(variant.batch),)
    return "\n".join(
        [
            *(f"# {line}" for line in _where(variant, backend)),
            f'name: "{variant.name}"',
            f'platform: "{PLATFORMS[backend]}"',
            f"max_batch_size: {DEFAULT_PROFILE[-1] if dynamic else 0}",
            _tensor("input", "images", kind, (*front, *manifest.image_shape)),
            _tensor("output", manifest.model.output, "TYPE_FP32", (*front, *output)),
            *(["dynamic_batching { }"] if dynamic else []),
        ]
    )


def _where(variant: Variant, backend: str) -> list[str]:
    """What belongs beside the file."""
    folder = f"models/{variant.name}"
    if backend == "tensorrt":
        lines = [f"{folder}/config.pbtxt; the engine of this device as {folder}/1/model.plan"]
        if variant.batch == DYNAMIC:
            lines.append("max_batch_size: the largest batch of the engine's profile (trt --profile)")
        return lines
    weights = " and ".join(file.rpartition("/")[2] for file in variant.weights) or "its weights"
    return [f"{folder}/config.pbtxt; {variant.file} as {folder}/1/model.onnx, {weights} beside it"]


def _tensor(field: str, name: str, kind: str, dims: Sequence[int]) -> str:
    sizes = ", ".join(map(str, dims))
    return f'{field} [ {{ name: "{name}" data_type: {kind} dims: [ {sizes} ] }} ]'
