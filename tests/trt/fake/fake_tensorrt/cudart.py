"""A FAKE libcudart: device memory is host memory, streams run at once, graphs are lists of calls.

Its functions are C functions (made by ctypes) with the prototypes of CUDA's headers, so that a wrong argument
type in runtime/cuda.py shows. It keeps account of everything that is made, and refuses what it did not make.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p
from typing import Any

INVALID_VALUE, OUT_OF_MEMORY, ILLEGAL_STATE, CAPTURE_UNSUPPORTED = 1, 2, 401, 900
TOTAL = 8 << 30

OUT = POINTER(c_void_p)
# from cuda_runtime_api.h of CUDA 12; all of them return cudaError_t
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cudaSetDevice": (c_int,),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (OUT, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMallocHost": (OUT, c_size_t),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (OUT, c_uint),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, OUT),
    "cudaGraphInstantiateWithFlags": (OUT, c_void_p, c_ulonglong),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaEventCreate": (OUT,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventSynchronize": (c_void_p,),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaEventDestroy": (c_void_p,),
    "cudaGetLastError": (),
}
WORDS = {
    1: b"invalid argument",
    2: b"out of memory",
    35: b"CUDA driver version is insufficient",
    100: b"no device",
}

Calls = list[Callable[[], None]]


class Words:
    """cudaGetErrorString: ctypes makes no C function that returns text."""

    argtypes: object = None
    restype: object = None

    def __call__(self, status: int) -> bytes:
        return WORDS.get(status, b"unknown error")


class FakeDriver:
    """FAKE libcuda: names the device."""

    def __init__(self, gpu: str) -> None:
        self._gpu = gpu
        self.status = 0

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = ordinal
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = self._gpu.encode()[: size - 1]
        return 0


class FakeCudart:
    """FAKE libcudart. `fail` maps a function's name to the status it returns; `live` is what is not freed."""

    def __init__(self, capability: tuple[int, int] = (8, 7)) -> None:
        self._attributes = {75: capability[0], 76: capability[1]}
        self.fail: dict[str, int] = {}
        self.calls: list[str] = []
        self.live: dict[int, Any] = {}  # address or handle -> ("device" | "host" | "stream" | ..., content)
        self._next = 0x1000
        self._recording: dict[int, Calls] = {}
        self.cudaGetErrorString = Words()
        for name, types in PROTOTYPES.items():
            setattr(self, name, ctypes.CFUNCTYPE(c_int, *types)(self._counted(name)))

    def attribute(self, number: int) -> int:
        """A device attribute, for the fake TensorRT."""
        return self._attributes[number]

    def submit(self, stream: int, work: Callable[[], None]) -> bool:
        """Do work in a stream: at once, or recorded while a graph is captured. False: no such stream."""
        if not self._is(stream, "stream"):
            return False
        if stream in self._recording:
            self._recording[stream].append(work)
        else:
            work()
        return True

    def is_recording(self, stream: int) -> bool:
        """Whether a graph is being captured from the stream."""
        return stream in self._recording

    def holds(self, address: int, size: int, kind: str) -> bool:
        """Whether these bytes are in one allocation of that kind."""
        return any(
            what == kind and start <= address and address + size <= start + len(content)
            for start, (what, content) in self.live.items()
            if what in ("device", "host")
        )

    def _counted(self, name: str) -> Callable[..., int]:
        method = getattr(self, f"_{name}")

        def call(*arguments: Any) -> int:
            self.calls.append(name)
            return int(self.fail[name] if name in self.fail else method(*arguments))

        return call

    def _is(self, handle: int | None, kind: str) -> bool:
        return handle in self.live and self.live[handle][0] == kind

    def _make(self, out: Any, kind: str, content: Any = None) -> int:
        self._next += 16
        self.live[self._next] = (kind, content)
        out[0] = self._next
        return 0

    def _drop(self, handle: int | None, kind: str) -> int:
        if handle is None or not self._is(handle, kind):
            return INVALID_VALUE
        del self.live[handle]
        return 0

    def _allocate(self, out: Any, kind: str, size: int) -> int:
        memory = (ctypes.c_uint8 * size)(*b"\xff" * size) if size < 64 else (ctypes.c_uint8 * size)()
        address = ctypes.addressof(memory)
        self.live[address] = (kind, memory)
        out[0] = address
        return 0

    def _cudaSetDevice(self, device: int) -> int:
        return 0 if device == 0 else 101

    def _cudaDeviceGetAttribute(self, value: Any, attribute: int, device: int) -> int:
        value[0] = self._attributes[attribute]
        return 0

    def _cudaRuntimeGetVersion(self, value: Any) -> int:
        value[0] = 12060
        return 0

    def _cudaDriverGetVersion(self, value: Any) -> int:
        value[0] = 12080
        return 0

    def _cudaMemGetInfo(self, free: Any, total: Any) -> int:
        free[0], total[0] = TOTAL // 2, TOTAL
        return 0

    def _cudaMalloc(self, out: Any, size: int) -> int:
        return self._allocate(out, "device", size)

    def _cudaFree(self, address: int) -> int:
        return self._drop(address, "device")

    def _cudaMallocHost(self, out: Any, size: int) -> int:
        return self._allocate(out, "host", size)

    def _cudaFreeHost(self, address: int) -> int:
        return self._drop(address, "host")

    def _cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> int:
        places = {1: ("device", "host"), 2: ("host", "device")}
        if kind not in places or not all(
            self.holds(address, size, place)
            for address, place in zip((to, source), places[kind], strict=True)
        ):
            return INVALID_VALUE
        done = self.submit(stream, lambda: void(ctypes.memmove(to, source, size)))
        return 0 if done else INVALID_VALUE

    def _cudaStreamCreateWithFlags(self, out: Any, flags: int) -> int:
        return self._make(out, "stream", flags)

    def _cudaStreamDestroy(self, stream: int) -> int:
        return self._drop(stream, "stream")

    def _cudaStreamSynchronize(self, stream: int) -> int:
        if stream in self._recording:  # waiting for what is only recorded
            return CAPTURE_UNSUPPORTED
        return 0 if self._is(stream, "stream") else INVALID_VALUE

    def _cudaStreamBeginCapture(self, stream: int, mode: int) -> int:
        if stream in self._recording:
            return ILLEGAL_STATE
        self._recording[stream] = []
        return 0 if self._is(stream, "stream") and mode in (0, 1, 2) else INVALID_VALUE

    def _cudaStreamEndCapture(self, stream: int, out: Any) -> int:
        if stream not in self._recording:
            return ILLEGAL_STATE
        return self._make(out, "graph", self._recording.pop(stream))

    def _cudaGraphInstantiateWithFlags(self, out: Any, graph: int, flags: int) -> int:
        return self._make(out, "executable", self.live[graph][1])

    def _cudaGraphDestroy(self, graph: int) -> int:
        return self._drop(graph, "graph")

    def _cudaGraphLaunch(self, executable: int, stream: int) -> int:
        if not self._is(executable, "executable"):
            return INVALID_VALUE
        return 0 if all(self.submit(stream, call) for call in self.live[executable][1]) else INVALID_VALUE

    def _cudaGraphExecDestroy(self, executable: int) -> int:
        return self._drop(executable, "executable")

    def _cudaEventCreate(self, out: Any) -> int:
        return self._make(out, "event")

    def _cudaEventRecord(self, event: int, stream: int) -> int:
        return 0 if self._is(event, "event") and self._is(stream, "stream") else INVALID_VALUE

    def _cudaEventSynchronize(self, event: int) -> int:
        return 0 if self._is(event, "event") else INVALID_VALUE

    def _cudaEventElapsedTime(self, value: Any, start: int, end: int) -> int:
        value[0] = 1.5  # FAKE
        return 0 if self._is(start, "event") and self._is(end, "event") else INVALID_VALUE

    def _cudaEventDestroy(self, event: int) -> int:
        return self._drop(event, "event")

    def _cudaGetLastError(self) -> int:
        return 0


def void(_: object) -> None:
    """Forget a value."""
