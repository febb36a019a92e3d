"""test_real.py on the FAKEs of every version: it proves nothing but that those tests are ready to be run.

A test that waits for a machine rots unseen. So each of them runs here as it is; only TensorRT and the device
beneath are fakes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import fake_tensorrt
import pytest

from tofe_export.trt.platform import Platform

FILE = Path(__file__).with_name("test_real.py")


def load(path: Path) -> ModuleType:
    """Another test file; `tests` is no package."""
    spec = importlib.util.spec_from_file_location(f"rehearsed_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REAL = load(FILE)
TESTS = {name: test for name, test in vars(REAL).items() if name.startswith("test_")}
globals().update(TESTS)
built, copied = REAL.built, REAL.copied


@pytest.fixture(scope="module", params=fake_tensorrt.VERSIONS)
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """The FAKE in the place of this machine's TensorRT and GPU."""
    with pytest.MonkeyPatch.context() as patch:
        fake_tensorrt.install(patch, request.param)
        yield Platform.here()


def test_all_of_them_are_here() -> None:
    assert len(TESTS) >= 14
    assert {mark.name for mark in REAL.pytestmark} == {"tensorrt", "slow"}  # the real ones stay marked
