"""What TensorRT's lines mean, and what to do.

TensorRT reports causes in its builder's words: too little memory reads "could not find any implementation for
node", a plan of another version reads like a failed assertion. Each entry is a pattern of lines that were
seen, what they mean, and a way out; docs/tensorrt.md lists the same. The lines themselves are always shown
too: an explanation is a reading, the line is the fact.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

SHOWN = 6  # lines of TensorRT's in one message


@dataclass(frozen=True)
class Known:
    """A kind of line."""

    pattern: str  # regular expression, case ignored
    meaning: str
    mend: str


KNOWN = (
    Known(
        r"insuff?icient memory|memory is insufficient|out ?of ?memory|cudaErrorMemoryAllocation"
        r"|Cuda failure: 2\b|cuda error 2\b",
        "the device has too little free memory",
        "close other programs, export a smaller --batch, or allow less scratch memory with --workspace MiB",
    ),
    Known(
        r"could not find any implementation for node",
        "no kernel fits; nearly always because its scratch memory does not fit into --workspace or into what "
        "is free, seldom because this GPU has none for that type",
        "free memory or export a smaller --batch; if --workspace was given, raise it; try --opt-level 3",
    ),
    Known(
        r"version tag does not match|not compatible with this version of TensorRT|kSERIALIZATION_VERSION"
        r"|stdVersionRead",
        "the plan was made by another TensorRT",
        "build it again here: tofe-export trt --force",
    ),
    Known(
        r"magic tag does not match|magicTagRead",
        "the file is no plan, or a damaged one",
        "build it again: tofe-export trt --force",
    ),
    Known(
        r"incompatible device|expecting compute \d",
        "the plan was made on another kind of GPU",
        "build it again on this device: tofe-export trt --force",
    ),
    Known(
        r"engine_?host_?code_?allowed|lean runtime",
        "the plan carries its own runtime (version compatible), which must be allowed to run",
        "load it through tofe-export, or build it again without --version-compatible",
    ),
    Known(
        r"CUDA initialization failure with error:? ?(35|36|803|804)|driver version is insufficient",
        "there is no NVIDIA driver, or it is older than this TensorRT's CUDA",
        "check nvidia-smi, install or update the driver (or a TensorRT for an older CUDA); in a container "
        "pass the GPU in (--gpus all, on a Jetson --runtime nvidia)",
    ),
    Known(
        r"CUDA initialization failure(?! with error:? ?(35|36|803|804))|no CUDA-capable device",
        "CUDA finds no usable GPU",
        "check nvidia-smi; in a container pass the GPU in (--gpus all, on a Jetson --runtime nvidia)",
    ),
    Known(
        r"unable to load library|libnvinfer_builder_resource|cannot open shared object",
        "a part of TensorRT's installation is missing",
        "install TensorRT again, all packages of one version",
    ),
    Known(
        r"no importer registered for op|plugin not found|unsupported operator|UNSUPPORTED_NODE",
        "the parser does not know an operator of the graph",
        "check the graph on the host: tofe-export lint BUNDLE --target trt-VERSION",
    ),
    Known(
        r"failed to open.*weights|external data|failed to parse ONNX model|failed to read from file",
        "the graph or its weights file cannot be read",
        "copy the whole bundle again; tofe-export inspect checks it",
    ),
    Known(
        r"incompatible (input )?types|must have (the )?same (input )?types|strongly.typed",
        "types in the typed graph do not agree: a fault of the export",
        "export again with this tofe-export; if it stays, report it with these lines",
    ),
    Known(
        r"no implementation obeys|requested constraints|precision constraints",
        "a layer cannot be held in the precision that was asked for",
        "build --fp32, or use TensorRT 10 or newer, which takes the types from the graph",
    ),
)


def explanations(lines: Iterable[str]) -> list[str]:
    """What the lines mean and what to do, in the order of KNOWN, each kind once; [] for unknown lines."""
    text = "\n".join(lines)
    return [
        f"{known.meaning}: {known.mend}" for known in KNOWN if re.search(known.pattern, text, re.IGNORECASE)
    ]


def with_lines(what: str, lines: Iterable[str], otherwise: str) -> str:
    """A message: what failed, what that means (or `otherwise`), and TensorRT's own first lines."""
    said = list(lines)
    meaning = explanations(said)
    parts = [f"{what}. {'; '.join(meaning) if meaning else otherwise}"]
    parts += [f"  TensorRT: {line.strip()}" for line in said[:SHOWN]]
    if len(said) > SHOWN:
        parts.append(f"  and {len(said) - SHOWN} more lines")
    return "\n".join(parts)
