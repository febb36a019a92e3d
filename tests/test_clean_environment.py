"""The base installation as a user has it: a new virtual environment with the wheel and what it asks for.

`test_device_floor.py` blocks imports inside a full environment, which is quick; this one shows that nothing
else was needed. It asks a package index for click, numpy, Pillow and onnxruntime, and is skipped without one.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import tiny_bundle

HERE = Path(__file__).parent
HEAVY = ("torch", "timm", "onnx", "onnxscript", "accelerate", "tensorrt")

pytestmark = pytest.mark.slow  # installs packages


def neighbour(name: str) -> ModuleType:
    """Another test file, for its helpers; `tests` is no package."""
    spec = importlib.util.spec_from_file_location(f"neighbour_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*line: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        list(map(str, line)), capture_output=True, text=True, cwd=cwd, env=clean, check=False
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The new environment's folder of programs."""
    folder = tmp_path_factory.mktemp("clean")
    wheel = neighbour("test_packaging").build_wheel(folder, True)
    made = run(sys.executable, "-m", "venv", folder / "venv", cwd=folder)
    if made.returncode:
        pytest.skip(f"this Python makes no virtual environments: {made.stdout or made.stderr}")
    programs = folder / "venv" / "bin"
    options = ("--quiet", "--disable-pip-version-check", "--retries", 1, "--timeout", 10)
    done = run(programs / "python", "-m", "pip", "install", *options, wheel, "onnxruntime", cwd=folder)
    if done.returncode and ("No matching distribution" in done.stderr or "onnection" in done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return programs


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A small one, made on the host."""
    return tiny_bundle.write_bundle(tmp_path / "bundle", dynamic=True)


def test_every_module_of_the_device_floor_imports(environment: Path, tmp_path: Path) -> None:
    code = (
        "import importlib, importlib.util, sys\n"
        f"found = [name for name in {HEAVY!r} if importlib.util.find_spec(name)]\n"
        "assert not found, found\n"
        f"for name in {neighbour('test_device_floor').device_modules()!r}: importlib.import_module(name)\n"
        "import tofe_export; print(tofe_export.__file__)"
    )
    done = run(environment / "python", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(str(environment.parent))  # the installed one, not the checkout


def test_verify_runs_with_onnxruntime(environment: Path, bundle: Path) -> None:
    done = run(environment / "tofe-export", "verify", bundle, cwd=bundle.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" ok ") >= 5


def test_trt_says_how_to_get_tensorrt(environment: Path, bundle: Path) -> None:
    done = run(environment / "tofe-export", "trt", bundle, cwd=bundle.parent)
    assert done.returncode == 5
    said = " ".join(done.stderr.split())
    assert "TensorRT is not installed for this Python" in said
    assert "pip install 'tofe-export[tensorrt]'" in said or "apt-get install tensorrt" in said


def test_the_host_floor_says_what_it_needs(environment: Path, bundle: Path) -> None:
    (bundle / "x.pt").write_bytes(b"")
    line = ("onnx", "--ckpt", bundle / "x.pt", "--budget", 2)
    done = run(environment / "tofe-export", *line, cwd=bundle.parent)
    assert done.returncode == 5
    assert "pip install 'tofe-export[export]'" in " ".join(done.stderr.split())
