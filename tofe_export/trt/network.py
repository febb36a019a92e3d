"""A graph in TensorRT: created with the right flags, read by NVIDIA's parser, its types counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tofe_export.errors import BuildFailed, PrecisionError
from tofe_export.trt.api import Builder, Logger, Network, Parser, ParserError, Trt
from tofe_export.trt.compat import Features
from tofe_export.trt.explain import with_lines
from tofe_export.trt.hold import layers, outputs
from tofe_export.trt.log import Lines


def create_network(trt: Trt, features: Features, builder: Builder, strong: bool) -> Network:
    """An empty network; strongly typed where asked. Raises PrecisionError if this TensorRT has no such."""
    flags = 0
    if features.explicit_batch:
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if strong:
        if not features.strong_types:
            raise PrecisionError(f"TensorRT {features.text} has no strongly typed networks: use 10.0")
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network: Network = builder.create_network(flags)
    return network


def parse(trt: Trt, features: Features, network: Network, file: Path, logger: Logger, lines: Lines) -> Parser:
    """Read an ONNX file with the weights beside it. The parser must outlive the network.

    Raises BuildFailed with every error that the parser reports, its node named where the version can.
    """
    parser: Parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):
        errors = [_describe(features, parser.get_error(index)) for index in range(parser.num_errors)]
        raise BuildFailed(
            with_lines(
                f"TensorRT {features.text} cannot read {file.name}",
                [*errors, *lines.errors],
                f"check it on the host: tofe-export lint --target trt-{features.version[0]}."
                f"{features.version[1]}",
            )
        )
    return parser


def _describe(features: Features, error: ParserError) -> str:
    if features.parser_nodes:
        return f"{error.node_operator()} {error.node_name()!r}: {error.desc()}"
    return f"node {error.node()}: {error.desc()}"


def count_types(trt: Trt, features: Features, network: Network) -> dict[str, int]:
    """How many layers of the parsed network produce each type: "fp32", "fp16", "bf16", "int8".

    In a strongly typed network these are the types that the engine computes in.
    """
    kinds = trt.DataType
    names = {kinds.FLOAT: "fp32", kinds.HALF: "fp16", kinds.INT8: "int8", **_newer_types(trt)}
    counts: Counter[str] = Counter()
    for layer in layers(network):
        if layer.type == trt.LayerType.CONSTANT:
            continue
        found = {names[tensor.dtype] for tensor in outputs(layer) if tensor.dtype in names}
        if layer.type == trt.LayerType.QUANTIZE and not features.strong_types:
            found = {"int8"}  # 8.x knows no other, whatever type it gives the tensor before the build
        counts.update(found)
    return dict(counts)


def _newer_types(trt: Trt) -> dict[object, str]:
    bf16 = getattr(trt.DataType, "BF16", None)
    return {} if bf16 is None else {bf16: "bf16"}
