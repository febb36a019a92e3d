"""A FAKE TensorRT for tests: the names of a real version, and engines that are ONNX Runtime sessions.

What it proves: that our code touches only what TensorRT 8.6, 10.3, 10.13 or 11.4 has (every class is made
from the inventory of that version; unknown names raise AttributeError), checks every answer, and says the
right thing when something fails. What it does not prove: anything about real engines. It knows no kernels,
rounds nothing and keeps no time. Every log line, every plan and the name of its GPU say FAKE.

    trt = fake_tensorrt.install(monkeypatch, "10.3")          # `import tensorrt` is the fake from here on
    trt.script.build_errors = ["..."]                         # the next build fails with these lines
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from fake_tensorrt.cudart import FakeCudart, FakeDriver
from fake_tensorrt.module import FakeModule
from fake_tensorrt.script import OUT_OF_MEMORY, Script

__all__ = ["OUT_OF_MEMORY", "VERSIONS", "FakeCudart", "FakeModule", "Script", "install"]

VERSIONS = ("8.6", "10.3", "10.13", "11.4")


def install(
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    gpu: str = "FAKE GPU",
    capability: tuple[int, int] = (8, 7),
) -> FakeModule:
    """Make `import tensorrt` and libcudart the fake, for one test; gives the module, with its `script`."""
    cudart = FakeCudart(capability)
    module = FakeModule(version, cudart, gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    libraries: dict[str, Any] = {"load_library": cudart, "load_driver": FakeDriver(gpu)}
    for name, library in libraries.items():
        monkeypatch.setattr(f"tofe_export.runtime.cuda.{name}", lambda library=library: library)
    return module
