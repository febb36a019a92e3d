"""Plan files: TensorRT's serialized engines, as bytes, without TensorRT.

A plan begins with a magic number and the version that wrote it, at fixed places since 8.6 (NVIDIA's sample
`printPlanVersion`). Reading them tells a truncated download, a text file or another version's plan apart from
a plan, before a library that answers such files with a failed assertion sees them.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

from tofe_export.manifest import Variant
from tofe_export.trt.device import Device

HEADER_BYTES = 28
_MAGIC = 0x74727466
_SERIALIZATION = 0
FOLDER = "engines"

PlanVersion = tuple[int, int, int, int]  # major, minor, patch, build


def plan_version(head: bytes) -> PlanVersion | None:
    """The TensorRT that wrote a plan, of its first 28 bytes; None for what is no plan of 8.6 or newer."""
    if len(head) < HEADER_BYTES:
        return None
    magic, serialization = struct.unpack_from("<II", head)
    if (magic, serialization) != (_MAGIC, _SERIALIZATION):
        return None
    major, minor, patch, build = head[24:HEADER_BYTES]
    return major, minor, patch, build


def engine_name(variant: Variant | str, device: Device, tensorrt: str, probe: bool = False) -> str:
    """The file name without its ending: "2.00g-scatter-fp16-b1.probe.jetson-orin-nano.10.3.0"."""
    name = variant if isinstance(variant, str) else variant.name
    version = re.sub(r"[^0-9A-Za-z.]+", "-", tensorrt)
    return f"{name}{'.probe' if probe else ''}.{device.slug}.{version}"


def read_head(path: Path) -> bytes:
    """The first bytes of a file. Raises OSError."""
    with open(path, "rb") as file:
        return file.read(HEADER_BYTES)
