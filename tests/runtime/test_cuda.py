"""CUDA through ctypes, on a FAKE libcudart whose functions have the prototypes of CUDA's headers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_tensorrt.cudart import PROTOTYPES, FakeCudart, FakeDriver

from tofe_export.errors import MissingBackend
from tofe_export.runtime import cuda as cuda_module
from tofe_export.runtime import cuda_library
from tofe_export.runtime.cuda import Cuda


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    """The fake in place of libcudart and the driver."""
    fake, driver = FakeCudart((8, 7)), FakeDriver("FAKE GPU")
    monkeypatch.setattr(cuda_module, "load_library", lambda: fake)
    monkeypatch.setattr(cuda_module, "load_driver", lambda: driver)
    return fake


def test_the_device(library: FakeCudart) -> None:
    cuda = Cuda()
    assert cuda.device_name() == "FAKE GPU"
    assert cuda.compute_capability() == "8.7"
    assert (cuda.runtime_version(), cuda.driver_version()) == ("12.6", "12.8")
    assert (cuda.free_memory(), cuda.memory()) == (4 << 30, 8 << 30)


def test_our_signatures_are_those_of_the_headers() -> None:
    ours = {name: types for name, types in cuda_module._SIGNATURES.items() if name != "cudaGetErrorString"}
    assert ours == PROTOTYPES


def test_bytes_go_there_and_back(library: FakeCudart) -> None:
    cuda = Cuda()
    stream, device, host, back = cuda.create_stream(), cuda.allocate(5), cuda.allocate_host(5), 0
    assert device > 2**32 or device > 0  # an address of 64 bits survives ctypes
    ctypes.memmove(host, b"abcde", 5)
    cuda.copy_to_device(device, host, 5, stream)
    back = cuda.allocate_host(5)
    cuda.copy_to_host(back, device, 5, stream)
    cuda.synchronize(stream)
    assert ctypes.string_at(back, 5) == b"abcde"
    cuda.free(device)
    for address in (host, back):
        cuda.free_host(address)
    cuda.destroy_stream(stream)
    assert library.live == {}


def test_a_copy_that_is_too_long_is_an_error(library: FakeCudart) -> None:
    cuda = Cuda()
    stream, device, host = cuda.create_stream(), cuda.allocate(4), cuda.allocate_host(8)
    with pytest.raises(MissingBackend, match=r"copying to the device: invalid argument \(error 1\)"):
        cuda.copy_to_device(device, host, 8, stream)
    assert library.calls[-1] == "cudaGetLastError"  # else the next call would report it again


def test_a_graph_is_recorded_and_run(library: FakeCudart) -> None:
    cuda = Cuda()
    stream, device, host = cuda.create_stream(), cuda.allocate(1), cuda.allocate_host(1)
    ctypes.memmove(host, b"a", 1)
    cuda.begin_capture(stream)
    cuda.copy_to_device(device, host, 1, stream)
    graph = cuda.end_capture(stream)
    assert ctypes.string_at(device, 1) != b"a"
    cuda.launch_graph(graph, stream)
    assert ctypes.string_at(device, 1) == b"a"
    cuda.destroy_graph(graph)
    assert "graph" not in {kind for kind, _ in library.live.values()}  # only its executable form was kept
    with pytest.raises(MissingBackend, match="starting a CUDA graph"):
        cuda.launch_graph(graph, stream)


def test_time_between_events(library: FakeCudart) -> None:
    cuda = Cuda()
    stream, start, end = cuda.create_stream(), cuda.create_event(), cuda.create_event()
    cuda.record_event(start, stream)
    cuda.record_event(end, stream)
    assert cuda.elapsed_ms(start, end) == 1.5
    for event in (start, end):
        cuda.destroy_event(event)
    with pytest.raises(MissingBackend, match="waiting for an event"):
        cuda.elapsed_ms(start, end)


@pytest.mark.parametrize(
    ("function", "status", "words"),
    [
        (
            "cudaMalloc",
            2,
            "allocating 16 bytes on the device: out of memory .error 2.. The device has",
        ),
        ("cudaMalloc", 77, "unknown error .error 77.. Expected a working NVIDIA GPU"),
        ("cudaMalloc", 900, "run it without one"),
        ("cudaSetDevice", 35, "There is no NVIDIA driver, or it is older"),
        ("cudaSetDevice", 100, "CUDA finds no GPU: check nvidia-smi; in a container"),
    ],
)
def test_every_status_is_looked_at(library: FakeCudart, function: str, status: int, words: str) -> None:
    library.fail[function] = status
    with pytest.raises(MissingBackend, match=words):
        Cuda().allocate(16)


def test_a_library_that_is_too_old(library: FakeCudart) -> None:
    vars(library).pop("cudaGraphInstantiateWithFlags")
    with pytest.raises(MissingBackend, match=r"CUDA 11\.4 or newer, found one without cudaGraphInst"):
        Cuda()


def test_a_driver_that_names_no_device(library: FakeCudart, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = FakeDriver("FAKE GPU")
    driver.status = 100
    monkeypatch.setattr(cuda_module, "load_driver", lambda: driver)
    with pytest.raises(MissingBackend, match=r"names no device \(error 100\)"):
        Cuda().device_name()


def test_a_machine_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_library, "candidates", lambda: iter(["libnosuchcudart.so.12"]))
    with pytest.raises(MissingBackend, match=r"cannot be loaded: libnosuchcudart.*pip install"):
        cuda_library.load_library.__wrapped__()


class Library:
    """A libcudart of a version, on a machine whose driver knows another."""

    def __init__(self, runtime: int, driver: int) -> None:
        self._versions = {"cudaRuntimeGetVersion": runtime, "cudaDriverGetVersion": driver}

    def __getattr__(self, name: str) -> Callable[[Any], int]:
        if name not in self._versions:
            raise AttributeError(name)

        def give(value: Any) -> int:
            value._obj.value = self._versions[name]
            return 0

        return give


@pytest.mark.parametrize(
    ("driver", "chosen"),
    [(13010, "13"), (12020, "12"), (12080, "12"), (11040, "11"), (10020, "13"), (0, "13")],
)
def test_the_newest_library_that_the_driver_serves(
    driver: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = {"13": Library(13000, driver), "12": Library(12060, driver), "11": Library(11040, driver)}
    monkeypatch.setattr(cuda_library, "candidates", lambda: iter(("none", *libraries)))

    def load(name: str) -> Library:
        if name not in libraries:
            raise OSError(f"{name}: no such file")
        return libraries[name]

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert cuda_library.load_library.__wrapped__() is libraries[chosen]  # type: ignore[comparison-overlap]


def test_a_library_of_another_kind_is_served_by_no_driver() -> None:
    broken: Any = object()
    assert not cuda_library.is_served(broken)


def test_pips_library_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "nvidia" / "cuda_runtime" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcudart.so.12").write_bytes(b"")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "nvidia", raising=False)
    found = list(cuda_library.candidates())
    assert found[0] == "libcudart.so.13"
    assert str(folder / "libcudart.so.12") in found
