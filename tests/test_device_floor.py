"""The device floor stands without the host floor: it imports where torch, timm and onnx are absent.

What belongs to the host floor is listed; everything else is the device floor, so a new module is one until
somebody says otherwise. Runtimes are absent too: they load when a session opens, not when a module is
imported.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from absent import run_without

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
ABSENT = (
    *("torch", "torchvision", "timm", "safetensors", "accelerate"),
    *("onnx", "onnx_ir", "onnxscript", "onnx_graphsurgeon", "onnxruntime", "tensorrt"),
)


def device_modules() -> list[str]:
    folders = {ROOT / "tofe_export": "tofe_export", ROOT / "cli": "tofe_export.cli"}
    folders[ROOT / "calibration"] = "tofe_export.calibration"
    names = {
        ".".join((package, *file.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__")
        for folder, package in folders.items()
        for file in folder.rglob("*.py")
    }
    return sorted(name for name in names if not name.startswith(HOST_FLOOR))


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
    done = run_without(ABSENT, code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["tofe_export.bundle", "tofe_export.budget", "tofe_export.cli.verify"])
def test_the_list_holds_the_modules_that_matter(name: str) -> None:
    assert name in device_modules()


def test_what_is_hidden_cannot_be_imported() -> None:
    done = run_without(ABSENT, "import onnx")
    assert done.returncode == 1
    assert "No module named 'onnx'" in done.stderr
