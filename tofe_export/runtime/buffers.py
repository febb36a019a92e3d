"""One tensor in two places: device memory that kernels use, and pinned host memory that copies use."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np

from tofe_export.runtime.cuda import Cuda
from tofe_export.runtime.session import Array


class Buffer:
    """Room for the largest shape of one tensor. Raises MissingBackend when memory is short."""

    def __init__(self, cuda: Cuda, dtype: np.dtype[Any], largest: tuple[int, ...]) -> None:
        self._cuda = cuda
        self._dtype = dtype
        self._bytes = math.prod(largest) * dtype.itemsize
        self.device = cuda.allocate(self._bytes)
        try:
            self._host = cuda.allocate_host(self._bytes)
        except BaseException:
            cuda.free(self.device)
            raise
        memory = (ctypes.c_uint8 * self._bytes).from_address(self._host)
        self._memory = np.ctypeslib.as_array(memory)  # uint8, the pinned bytes themselves

    def send(self, array: Array, stream: int) -> None:
        """Put an array on the device, in the stream's order. The array itself is free at once."""
        self._view(array.shape)[...] = array
        self._cuda.copy_to_device(self.device, self._host, array.nbytes, stream)

    def fetch(self, shape: tuple[int, ...], stream: int) -> None:
        """Start copying a result of that shape back; `read` gives it once the stream is done."""
        self._cuda.copy_to_host(self._host, self.device, math.prod(shape) * self._dtype.itemsize, stream)

    def read(self, shape: tuple[int, ...]) -> Array:
        """A copy of what `fetch` brought."""
        return np.array(self._view(shape))

    def close(self) -> None:
        """Give both memories back, the second even if the first fails. Raises MissingBackend."""
        try:
            self._cuda.free(self.device)
        finally:
            self._cuda.free_host(self._host)

    def _view(self, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape) * self._dtype.itemsize
        return self._memory[:size].view(self._dtype).reshape(shape)
