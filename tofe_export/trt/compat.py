"""Loading TensorRT, and knowing what the installed version can do.

One program serves 8.6 to 11.x by looking at what is there, never by trusting a version number where an
attribute can be asked for. The three families differ in how a precision is had: 8.6 knows only flags on a
float32 graph, 10.x flags and strongly typed networks, 11.x strongly typed networks only. Code that sets a
flag "if it exists" builds float32 engines on 11.x without a word, so nothing here has a silent alternative:
what a version cannot do is an error that says so.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tofe_export.errors import MissingBackend
from tofe_export.trt.api import Trt
from tofe_export.trt.jetson import l4t_release

OLDEST = (8, 6)
OLDEST_L4T = 36  # JetPack 6

Version = tuple[int, int, int]  # major, minor, patch


@dataclass(frozen=True)
class Features:
    """What one TensorRT can do, asked of the module itself."""

    text: str  # as it calls itself, "10.3.0"
    version: Version
    explicit_batch: bool  # EXPLICIT_BATCH must be passed (8.x; ignored in 10.x, gone in 11.x)
    strong_types: bool  # networks whose types are the graph's
    weak_types: bool  # flags that allow a precision, layers held in another by name
    progress: bool  # IProgressMonitor
    parser_nodes: bool  # parser errors name the node
    bf16: bool

    @classmethod
    def of(cls, trt: Trt) -> Features:
        """Look at the module."""
        text = str(trt.__version__)
        version = parse_version(text)
        flags = trt.NetworkDefinitionCreationFlag
        return cls(
            text=text,
            version=version,
            explicit_batch=hasattr(flags, "EXPLICIT_BATCH") and version < (10, 0, 0),
            strong_types=hasattr(flags, "STRONGLY_TYPED"),
            weak_types=hasattr(trt.BuilderFlag, "FP16")
            and hasattr(trt.BuilderFlag, "OBEY_PRECISION_CONSTRAINTS"),
            progress=hasattr(trt, "IProgressMonitor"),
            parser_nodes=hasattr(trt.ParserError, "node_name"),
            bf16=hasattr(trt.DataType, "BF16"),
        )


def parse_version(text: str) -> Version:
    """(10, 13, 3) of "10.13.3.9"; missing parts are 0. Raises MissingBackend for what is no version."""
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", text)
    if numbers is None:
        raise MissingBackend(f"expected a TensorRT version such as 10.3.0, found {text!r}: install it again")
    return int(numbers[1]), int(numbers[2]), int(numbers[3] or 0)


def load() -> Trt:
    """Import TensorRT. Raises MissingBackend: not installed, not loadable, too old, or JetPack 5."""
    release = l4t_release()
    if release is not None and int(release.split(".")[0]) < OLDEST_L4T:
        raise MissingBackend(_too_old(f"L4T {release}, which is JetPack 5 or older"))
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise MissingBackend(_missing(error, jetson=release is not None)) from error
    if parse_version(str(tensorrt.__version__))[:2] < OLDEST:
        raise MissingBackend(_too_old(f"TensorRT {tensorrt.__version__}"))
    return tensorrt


def _missing(error: Exception, jetson: bool) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt":
        found = "TensorRT is not installed for this Python"
    else:
        found = f"TensorRT is installed but cannot be loaded: {error}"
    if jetson or platform.machine() == "aarch64":
        mend = (
            "Install JetPack's packages (sudo apt-get install tensorrt python3-libnvinfer) and use the "
            "system's Python, or a virtual environment made with --system-site-packages"
        )
    else:
        mend = "Install it with: pip install 'tofe-export[tensorrt]'"
    return f"{found}. {mend}"


def _too_old(found: str) -> str:
    return (
        f"found {found}; expected TensorRT {OLDEST[0]}.{OLDEST[1]} or newer (on a Jetson JetPack 6), "
        "since older parsers know no LayerNormalization. Upgrade, or run the bundle with ONNX Runtime "
        "(--backend onnxruntime)"
    )


@dataclass(frozen=True)
class Fault:
    """A TensorRT that is known to compute some transformers wrongly. Bounds: first <= version < before."""

    first: Version
    before: Version
    text: str
    source: str
    precisions: tuple[str, ...] = ()  # empty: any
    capability: str | None = None  # None: any GPU
    dynamic: bool = False  # only with dynamic sizes

    def concerns(self, version: Version, precision: str, capability: str, dynamic: bool) -> bool:
        """Whether an engine of that kind is affected."""
        return (
            self.first <= version < self.before
            and (not self.precisions or precision in self.precisions)
            and self.capability in (None, capability)
            and (dynamic or not self.dynamic)
        )


FAULTS: Sequence[Fault] = (
    Fault(
        (10, 3, 0),
        (10, 5, 0),
        "transformers with dynamic sizes are computed wrongly",
        "NVIDIA/TensorRT issue 4419",
        dynamic=True,
    ),
    Fault(
        (10, 3, 0),
        (10, 4, 0),
        "a vision transformer (DINOv3) was computed wrongly in half precision",
        "NVIDIA/TensorRT issue 4723",
        precisions=("fp16", "bf16", "int8fp16"),
    ),
    Fault(
        (10, 4, 0),
        (10, 5, 0),
        "a vision transformer (DINOv3) was computed wrongly in every precision",
        "NVIDIA/TensorRT issue 4742",
    ),
    Fault(
        (8, 6, 0),
        (10, 16, 2),
        "fused attention is silently wrong in half precision on compute capability 12.0",
        "NVIDIA/TensorRT issue 4837",
        precisions=("fp16", "bf16", "int8fp16"),
        capability="12.0",
    ),
    Fault(
        (11, 1, 0),
        (11, 2, 0),
        "float32 networks were computed wrongly on compute capability 12.0",
        "NVIDIA/TensorRT issue 4813",
        precisions=("fp32",),
        capability="12.0",
    ),
)


def known_faults(features: Features, precision: str, capability: str, dynamic: bool) -> list[str]:
    """What is known to be wrong with engines of that kind, one sentence each."""
    return [
        f"TensorRT {features.text}: {fault.text} ({fault.source}). Do not use the engine before "
        "`tofe-export verify` has passed on this device"
        for fault in FAULTS
        if fault.concerns(features.version, precision, capability, dynamic)
    ]
