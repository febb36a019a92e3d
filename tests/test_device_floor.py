"""The device floor stands without the host floor: it imports where torch, timm and onnx are absent.

What belongs to the host floor is listed; everything else is the device floor, so a new module is one until
somebody says otherwise. Runtimes are blocked too: they load when a session opens, not when a module is
imported.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOST_FLOOR = (
    "tofe_export.model",
    "tofe_export.graph",
    "tofe_export.training",
    "tofe_export.fitting",
    "tofe_export.latency.ladder",
    "tofe_export.calibration.checkpoint",
    "tofe_export.calibration.divergence",
    "tofe_export.calibration.tensors",
    "tofe_export.calibration.thresholds",
    "tofe_export.calibration.tokens",
)
BLOCKED = (
    *("torch", "torchvision", "timm", "safetensors", "accelerate"),
    *("onnx", "onnx_ir", "onnxscript", "onnx_graphsurgeon", "onnxruntime", "tensorrt"),
)
BLOCK = f"""
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked by the test)", name=name)

sys.meta_path.insert(0, Absent())
"""


def device_modules() -> list[str]:
    folders = {ROOT / "tofe_export": "tofe_export", ROOT / "cli": "tofe_export.cli"}
    folders[ROOT / "calibration"] = "tofe_export.calibration"
    names = {
        ".".join((package, *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        for folder, package in folders.items()
        for file in folder.rglob("*.py")
    }
    return sorted(name for name in names if not name.startswith(HOST_FLOOR))


def run(code: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", BLOCK + code]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, check=False)


def test_every_module_of_the_device_floor_imports_alone() -> None:
    code = f"""
failed = []
for name in {device_modules()!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        failed.append(f"{{name}}: {{error}}")
sys.exit("\\n".join(failed) or 0)
"""
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["tofe_export.bundle", "tofe_export.budget", "tofe_export.cli.verify"])
def test_the_list_holds_the_modules_that_matter(name: str) -> None:
    assert name in device_modules()


def test_the_blocker_blocks() -> None:
    done = run("import onnx")
    assert done.returncode == 1
    assert "blocked by the test" in done.stderr
