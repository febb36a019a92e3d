"""Finding libcudart and the driver's library.

The runtime library is looked for under the names of CUDA 13, 12 and 11, and inside the pip packages that
bring it on desktops. A process that has one loaded already (TensorRT brings its own reference) gets the same.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tofe_export.errors import MissingBackend

_SONAMES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0", "libcudart.so")
_DRIVER = ("libcuda.so.1", "libcuda.so")
_MEND = (
    "Install CUDA, or: pip install nvidia-cuda-runtime-cu12; on a Jetson: sudo apt-get install nvidia-jetpack"
)


@cache
def load_library() -> ctypes.CDLL:
    """libcudart, wherever it is. Raises MissingBackend with what was tried."""
    return _open(candidates(), "the CUDA runtime library", _MEND)


@cache
def load_driver() -> ctypes.CDLL:
    """The driver's library. Raises MissingBackend with what was tried."""
    return _open(_DRIVER, "the CUDA driver", "Install NVIDIA's driver")


def candidates() -> Iterator[str]:
    """Names and paths of libcudart to try, in order."""
    yield from _SONAMES
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*/lib/libcudart.so*"), reverse=True):
            yield str(file)


def _open(names: Iterable[str], what: str, mend: str) -> ctypes.CDLL:
    reasons: list[str] = []
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError as error:  # noqa: PERF203 - trying names is what the loop is for
            reasons.append(str(error))
    raise MissingBackend(f"{what} cannot be loaded: {'; '.join(reasons)}. {mend}")
