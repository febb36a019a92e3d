"""Finding libcudart and the driver's library.

The runtime library is looked for under the names of CUDA 13, 12 and 11, and inside the pip packages that
bring it on desktops. Several may be installed, and the newest is of no use where the driver is older: the
first one is taken whose major version the driver serves.
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
    found = _open(candidates(), "the CUDA runtime library", _MEND)
    first = next(found)
    return next((library for library in (first, *found) if is_served(library)), first)


@cache
def load_driver() -> ctypes.CDLL:
    """The driver's library. Raises MissingBackend with what was tried."""
    return next(_open(_DRIVER, "the CUDA driver", "Install NVIDIA's driver"))


def is_served(library: ctypes.CDLL) -> bool:
    """Whether the installed driver is new enough for a libcudart; False without a driver."""
    runtime, driver = ctypes.c_int(), ctypes.c_int()
    try:
        failed = library.cudaRuntimeGetVersion(ctypes.byref(runtime))
        failed = library.cudaDriverGetVersion(ctypes.byref(driver)) or failed
    except AttributeError:  # no libcudart, whatever its name
        return False
    return not failed and runtime.value // 1000 <= driver.value // 1000  # 12060 is 12.6


def candidates() -> Iterator[str]:
    """Names and paths of libcudart to try, in order."""
    yield from _SONAMES
    spec = find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*/lib/libcudart.so*"), reverse=True):
            yield str(file)


def _open(names: Iterable[str], what: str, mend: str) -> Iterator[ctypes.CDLL]:
    """Every library of these names that loads. Raises MissingBackend when there is none."""
    reasons: list[str] = []
    loaded = 0
    for name in names:
        try:
            library = ctypes.CDLL(name)
        except OSError as error:
            reasons.append(str(error))
            continue
        loaded += 1
        yield library
    if not loaded:
        raise MissingBackend(f"{what} cannot be loaded: {'; '.join(reasons)}. {mend}")
