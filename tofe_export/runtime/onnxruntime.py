"""ONNX Runtime as a Session. It never runs on another provider than the one that was asked for.

ONNX Runtime treats a provider as a wish: onnxruntime-gpu lists CUDA and TensorRT as available on every
machine, and a session that cannot have them is made on the CPU, with a warning. A latency or a parity figure
of "CUDA" would then be the CPU's. So the session is asked what it really uses, and anything else is an error
with the reason: usually a library that the provider's own library cannot find, which the dynamic linker tells
best.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tofe_export.errors import BundleError, InputError, MissingBackend, MissingExtra, UsageError
from tofe_export.runtime.session import Array, Session, TensorInfo

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
}
OPTIMIZED = "optimized.onnx"
"""What ONNX Runtime made of a graph, in the folder of `Tuning.profile`."""
_SILENT = 4  # ONNX Runtime's severities: 0 verbose .. 3 error, 4 fatal; 2 is its default
_ERRORS = 3
_DEFAULT_SEVERITY = 2


@dataclass(frozen=True)
class Tuning:
    """How ONNX Runtime behaves; the defaults are its own but for `exact`."""

    threads: int | None = None  # for one operator; None: one per physical core
    spinning: bool = True  # idle threads burn their core for a while, and slow down any other session
    exact: bool = True
    """Exact sums of INT8 products: x86 without VNNI otherwise adds pairs in 16 bits, which saturates. With it
    ONNX Runtime cannot load graphs in which several nodes dequantise one weight, so it is not for others'."""
    profile: Path | None = None  # a folder: time every kernel, and write the optimised graph there


class OnnxRuntimeSession(Session):
    """A graph file in ONNX Runtime.

    Raises MissingExtra (no onnxruntime), UsageError (unknown provider), MissingBackend (the provider does not
    work here), BundleError (not a graph that this ONNX Runtime can load).
    """

    def __init__(self, path: Path, provider: str = "cpu", tuning: Tuning | None = None) -> None:
        if provider not in PROVIDERS:
            raise UsageError(f"expected a provider out of {', '.join(PROVIDERS)}, found {provider!r}")
        self._session: InferenceSession | None = _create(path, provider, tuning or Tuning())
        used = self._session.get_providers()[0]
        if used != PROVIDERS[provider]:
            raise MissingBackend(_refusal(provider, f"it would run on {used}"))
        self.provider = provider
        self.inputs = {node.name: _info(path, node) for node in self._session.get_inputs()}
        self.outputs = {node.name: _info(path, node) for node in self._session.get_outputs()}

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        if self._session is None:
            raise ValueError("the session is closed")
        try:
            results = self._session.run(list(self.outputs), feeds)
        except _failures() as error:
            raise InputError(f"ONNX Runtime could not run the graph on these inputs: {error}") from error
        return dict(zip(self.outputs, map(np.asarray, results), strict=True))

    def end_profiling(self) -> Path:
        """Stop timing kernels and write what was found; needs `Tuning.profile`. Returns the JSON file."""
        if self._session is None:
            raise ValueError("the session is closed")
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Give the graph and its memory back."""
        self._session = None


def _create(path: Path, provider: str, tuning: Tuning) -> InferenceSession:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtra("onnxruntime", "ort") from error
    name = PROVIDERS[provider]
    if name not in onnxruntime.get_available_providers():
        raise MissingBackend(_refusal(provider, "this build of onnxruntime does not have it"))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS
    options.intra_op_num_threads = tuning.threads or 0  # 0: ONNX Runtime decides
    if tuning.exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    if not tuning.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if tuning.profile is not None:
        _profile_into(tuning.profile, options)
    wanted = list(dict.fromkeys([name, *(["CUDAExecutionProvider"] if provider == "tensorrt" else [])]))
    fallback = ["CPUExecutionProvider"] if provider != "cpu" else []  # for single nodes, shape arithmetic
    onnxruntime.set_default_logger_severity(_SILENT)  # the failed load of a provider is ours to report
    try:
        # enable_fallback=0: else a provider that fails is replaced by the CPU and a notice is printed
        return onnxruntime.InferenceSession(path, options, providers=[*wanted, *fallback], enable_fallback=0)
    except _failures() as error:
        if provider != "cpu" and _loads_on_cpu(path):
            raise MissingBackend(_refusal(provider, str(error))) from error
        raise BundleError(
            f"{path}: expected an ONNX graph with its weights beside it, found one that ONNX Runtime "
            f"{onnxruntime.__version__} cannot load: {error}"
        ) from error
    finally:
        onnxruntime.set_default_logger_severity(_DEFAULT_SEVERITY)


def _profile_into(folder: Path, options: SessionOptions) -> None:
    """The optimised graph without its weights: a file may have no more than 2 GiB."""
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / OPTIMIZED)
    config = "session.optimized_model_external_initializers"
    options.add_session_config_entry(f"{config}_file_name", "optimized.bin")
    options.add_session_config_entry(f"{config}_min_size_in_bytes", "1024")


def _loads_on_cpu(path: Path) -> bool:
    """Whether the graph itself is sound, so that a failure is the provider's."""
    try:
        _create(path, "cpu", Tuning())
    except BundleError:
        return False
    return True


def _failures() -> tuple[type[Exception], ...]:
    """ONNX Runtime's exceptions; they have no common base below Exception."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = [getattr(state, name) for name in dir(state)]
    own = tuple(kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception))
    return (*own, ValueError, RuntimeError)  # the bindings' own


def _refusal(provider: str, reason: str) -> str:
    missing = _missing_library(provider)
    return (
        f"expected ONNX Runtime to run on {provider}, which does not work here: {missing or reason}. "
        "Install the CUDA, cuDNN and TensorRT libraries that this onnxruntime-gpu was built for, or ask for "
        "the provider cpu"
    )


def _missing_library(provider: str) -> str:
    """What the dynamic linker misses when the provider's library is loaded; empty if nothing."""
    import onnxruntime

    library = Path(onnxruntime.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    if provider == "cpu" or not library.exists():
        return ""
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return str(error) if "cannot open shared object" in str(error) else ""
    return ""


def _info(path: Path, node: Any) -> TensorInfo:  # noqa: ANN401 - onnxruntime ships no types
    if node.type not in _DTYPES:
        raise BundleError(f"{path}: expected tensors of {', '.join(_DTYPES.values())}, found {node.type}")
    shape = tuple(
        size if isinstance(size, int) else size or f"{node.name}_{axis}"
        for axis, size in enumerate(node.shape)
    )
    return TensorInfo(node.name, np.dtype(_DTYPES[node.type]), shape)
