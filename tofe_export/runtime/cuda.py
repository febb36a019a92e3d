"""CUDA through ctypes: only libcudart and the driver, which every machine that runs TensorRT has.

A Jetson then needs nothing besides its own packages. What is used is a table of C functions whose signatures
are the same in CUDA 11.4 to 13 (`cudaGraphInstantiate` and `cudaGetDeviceProperties` are not, so their stable
relatives are called). Addresses and handles are plain integers. Every status is checked; a failure is a
`MissingBackend` with CUDA's own words.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_uint, c_ulonglong, c_void_p

from tofe_export.errors import MissingBackend
from tofe_export.runtime.cuda_library import load_driver, load_library

_MAJOR, _MINOR = 75, 76  # cudaDevAttrComputeCapabilityMajor, -Minor
_NAME_BYTES = 256
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_NON_BLOCKING = 1  # cudaStreamNonBlocking: does not wait for the default stream
_THREAD_LOCAL = 1  # cudaStreamCaptureModeThreadLocal: other threads may go on calling CUDA

_HANDLE = POINTER(c_void_p)  # where a new address or handle is put
_SIGNATURES: dict[str, tuple[object, ...]] = {
    "cudaSetDevice": (c_int,),
    "cudaDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cudaRuntimeGetVersion": (POINTER(c_int),),
    "cudaDriverGetVersion": (POINTER(c_int),),
    "cudaMemGetInfo": (POINTER(c_size_t), POINTER(c_size_t)),
    "cudaMalloc": (_HANDLE, c_size_t),
    "cudaFree": (c_void_p,),
    "cudaMallocHost": (_HANDLE, c_size_t),
    "cudaFreeHost": (c_void_p,),
    "cudaMemcpyAsync": (c_void_p, c_void_p, c_size_t, c_int, c_void_p),
    "cudaStreamCreateWithFlags": (_HANDLE, c_uint),
    "cudaStreamDestroy": (c_void_p,),
    "cudaStreamSynchronize": (c_void_p,),
    "cudaStreamBeginCapture": (c_void_p, c_int),
    "cudaStreamEndCapture": (c_void_p, _HANDLE),
    "cudaGraphInstantiateWithFlags": (_HANDLE, c_void_p, c_ulonglong),
    "cudaGraphDestroy": (c_void_p,),
    "cudaGraphLaunch": (c_void_p, c_void_p),
    "cudaGraphExecDestroy": (c_void_p,),
    "cudaEventCreate": (_HANDLE,),
    "cudaEventRecord": (c_void_p, c_void_p),
    "cudaEventSynchronize": (c_void_p,),
    "cudaEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cudaEventDestroy": (c_void_p,),
    "cudaGetErrorString": (c_int,),
    "cudaGetLastError": (),
}
_CHECK = "Expected a working NVIDIA GPU: check nvidia-smi (a Jetson: its JetPack installation)"
_MENDS = {
    2: "The device has too little free memory: close other programs, or use a smaller batch",
    35: "There is no NVIDIA driver, or it is older than this CUDA: check nvidia-smi, install or update the "
    "driver (or an older CUDA); in a container pass the GPU in (--gpus all, on a Jetson --runtime nvidia)",
    100: "CUDA finds no GPU: check nvidia-smi; in a container pass the GPU in (--gpus all, on a Jetson "
    "--runtime nvidia)",
    **dict.fromkeys(range(900, 910), "It cannot be recorded as a CUDA graph: run it without one"),
}


class Cuda:
    """The first device. Raises MissingBackend when there is no CUDA library or no usable device.

    The device is made current for the calling thread.
    """

    def __init__(self) -> None:
        self._library = load_library()
        for name, types in _SIGNATURES.items():
            function = getattr(self._library, name, None)
            if function is None:
                raise MissingBackend(
                    f"expected libcudart of CUDA 11.4 or newer, found one without {name}: install CUDA again"
                )
            function.argtypes, function.restype = types, c_int
        self._library.cudaGetErrorString.restype = c_char_p
        self._call("using the first GPU", "cudaSetDevice", 0)

    def device_name(self) -> str:
        """CUDA's name of the GPU, such as "NVIDIA L4" or "Orin"."""
        driver = load_driver()
        device = c_int()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        status = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
        status = status or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        if status:
            raise MissingBackend(f"the CUDA driver names no device (error {status}). {_CHECK}")
        return name.value.decode("utf-8", "replace")

    def compute_capability(self) -> str:
        """Such as "8.7"."""
        return f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}"

    def runtime_version(self) -> str:
        """The version of the CUDA library in use, such as "12.6"."""
        return self._version("cudaRuntimeGetVersion")

    def driver_version(self) -> str:
        """The newest CUDA that the installed driver knows, such as "12.6"."""
        return self._version("cudaDriverGetVersion")

    def memory(self) -> int:
        """Bytes of device memory, used or not; on a Jetson shared with the processor."""
        return self._memory()[1]

    def free_memory(self) -> int:
        """Bytes of device memory that are free now."""
        return self._memory()[0]

    def allocate(self, size: int) -> int:
        """The address of `size` bytes (at least 1) on the device."""
        return self._new(f"allocating {size} bytes on the device", "cudaMalloc", max(size, 1))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("freeing device memory", "cudaFree", address)

    def allocate_host(self, size: int) -> int:
        """The address of `size` bytes (at least 1) of pinned host memory, which copies run from at once."""
        return self._new(f"allocating {size} bytes of pinned memory", "cudaMallocHost", max(size, 1))

    def free_host(self, address: int) -> None:
        """Give pinned memory back."""
        self._call("freeing pinned memory", "cudaFreeHost", address)

    def copy_to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Copy bytes, in the stream's order."""
        self._call("copying to the device", "cudaMemcpyAsync", device, host, size, _TO_DEVICE, stream)

    def copy_to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Copy bytes, in the stream's order."""
        self._call("copying from the device", "cudaMemcpyAsync", host, device, size, _TO_HOST, stream)

    def create_stream(self) -> int:
        """A stream of its own, which the default stream does not hold up."""
        return self._new("making a stream", "cudaStreamCreateWithFlags", _NON_BLOCKING)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("destroying a stream", "cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait for all work in a stream; faults of that work are raised here."""
        self._call("waiting for the device", "cudaStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        """From here on, work is recorded instead of run."""
        self._call("recording a CUDA graph", "cudaStreamBeginCapture", stream, _THREAD_LOCAL)

    def end_capture(self, stream: int) -> int:
        """End recording; gives the graph's executable form."""
        graph = self._new("recording a CUDA graph", "cudaStreamEndCapture", stream, last=True)
        try:
            return self._new("preparing a CUDA graph", "cudaGraphInstantiateWithFlags", graph, 0)
        finally:
            self._call("destroying a CUDA graph", "cudaGraphDestroy", graph)

    def abandon_capture(self, stream: int) -> None:
        """End a recording that went wrong, whatever CUDA says of it; the stream can be used again."""
        graph = c_void_p()
        self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
        if graph.value:
            self._library.cudaGraphDestroy(graph)
        self._library.cudaGetLastError()  # forget it, or the next call reports it

    def launch_graph(self, executable: int, stream: int) -> None:
        """Run what was recorded."""
        self._call("starting a CUDA graph", "cudaGraphLaunch", executable, stream)

    def destroy_graph(self, executable: int) -> None:
        """Give an executable graph back."""
        self._call("destroying a CUDA graph", "cudaGraphExecDestroy", executable)

    def create_event(self) -> int:
        """A point in a stream whose time can be taken."""
        return self._new("making an event", "cudaEventCreate")

    def record_event(self, event: int, stream: int) -> None:
        """Put the event behind the work that is in the stream now."""
        self._call("recording an event", "cudaEventRecord", event, stream)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events, after waiting for the second."""
        self._call("waiting for an event", "cudaEventSynchronize", end)
        value = c_float()
        self._call("reading the time", "cudaEventElapsedTime", ctypes.byref(value), start, end)
        return value.value

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self._call("destroying an event", "cudaEventDestroy", event)

    def _memory(self) -> tuple[int, int]:
        free, total = c_size_t(), c_size_t()
        self._call("asking for its memory", "cudaMemGetInfo", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def _attribute(self, number: int) -> int:
        value = c_int()
        self._call(
            "asking for its compute capability",
            "cudaDeviceGetAttribute",
            ctypes.byref(value),
            number,
            0,
        )
        return value.value

    def _version(self, function: str) -> str:
        value = c_int()
        self._call("asking for its version", function, ctypes.byref(value))
        return f"{value.value // 1000}.{value.value % 1000 // 10}"

    def _new(self, doing: str, function: str, *arguments: int, last: bool = False) -> int:
        """Call a function that makes something; its place is the first argument, or the last."""
        value = c_void_p()
        place = ctypes.byref(value)
        self._call(doing, function, *((*arguments, place) if last else (place, *arguments)))
        return value.value or 0

    def _call(self, doing: str, function: str, *arguments: object) -> None:
        status = getattr(self._library, function)(*arguments)
        if status:
            self._library.cudaGetLastError()  # forget it, or the next call reports it again
            words = (self._library.cudaGetErrorString(status) or b"").decode("utf-8", "replace")
            raise MissingBackend(
                f"CUDA failed while {doing}: {words} (error {status}). {_MENDS.get(status, _CHECK)}"
            )
