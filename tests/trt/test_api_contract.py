"""Every TensorRT attribute that the code touches exists in every version on which that line runs.

How that is found out: contract.py, which follows the text and runs nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tofe_export.trt.compat import Features

ROOT = Path(__file__).parents[2] / "tofe_export"
FILES = [*sorted((ROOT / "trt").glob("*.py")), *sorted((ROOT / "runtime").glob("*.py"))]


@pytest.fixture
def contract(contract_module: Any, inventories: dict[str, Any], api_module: Any) -> Any:
    features = {name: Features.of(api_module(name)) for name in inventories}
    return contract_module.Contract(inventories, features)


def test_every_name_exists_where_it_is_used(contract: Any) -> None:
    faults = contract.check({path.name: path.read_text() for path in FILES})
    assert faults == []
    touched = {owner for owner, _ in contract.used}
    assert {
        "module tensorrt",
        "Builder",
        "IBuilderConfig",
        "OnnxParser",
        "ICudaEngine",
        "ILayer",
        "Runtime",
    } <= touched
    assert len(contract.used) > 60


HEAD = "from tofe_export.trt.api import *\n"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("def f(trt: Trt): trt.BuilderFlags", "x:1: BuilderFlags does not exist in 8.6, 10.3, 10.13, 11.4"),
        ("def f(trt: Trt): return trt.BuilderFlag.FP16", "BuilderFlag.FP16 does not exist in 11.4"),
        ("def f(b: Builder): b.build_engine", "Builder.build_engine does not exist in 10.3, 10.13, 11.4"),
        ("def f(b: Builder): b.create_builder_config().max_workspace", "IBuilderConfig.max_workspace does"),
        ("def f(layers: list[Layer]):\n for one in layers: one.precison = 1", "ILayer.precison does not"),
        ("def f(layers: list[Layer]): return {l.nam: l for l in layers}", "ILayer.nam does not exist"),
        ("def f(ls: Iterator[Layer]):\n for i, l in enumerate(ls): l.typ", "ILayer.typ does not exist"),
        ("def f(d: dict[str, Layer]): return d['a'].nam", "ILayer.nam does not exist"),
        ("def g() -> Layer: ...\ndef f():\n one = g()\n one.nam", "ILayer.nam does not exist"),
        (
            "class C:\n def open(self) -> Engine: ...\ndef f(c):\n e = c.open()\n e.nam",
            "ICudaEngine.nam does",
        ),
        ("class P:\n engine: Engine\ndef f(p): return p.engine.num_bindings", "ICudaEngine.num_bindings"),
        ("def f(trt: Trt): return hasattr(trt.BuilderFlag, 'FP61')", "BuilderFlag.FP61 does not exist"),
        ("def f(trt: Trt):\n class M(trt.IProgressMonitor): ...", "IProgressMonitor does not exist in 8.6"),
        ("def f(trt: Trt):\n class L(trt.ILogger):\n  def logg(self): ...", "ILogger.logg does not exist"),
        ("def f(layer: Layer): return layer.type.name", "annotate layer.type"),
        ("def f(e: Engine):\n try: e.num\n except E: pass", "ICudaEngine.num does not"),
        ("def f(x, trt: Trt):\n if x: trt.BuilderFlag.FP16", "does not exist in 11.4"),
        ("def f(features, trt: Trt):\n if not features.weak_types: trt.BuilderFlag.FP16", "FP16 does not"),
    ],
)
def test_a_name_that_does_not_exist_is_found(contract: Any, code: str, fault: str) -> None:
    (found,) = contract.check({"x": code})
    assert fault in found


@pytest.mark.parametrize(
    "code",
    [
        "def f(trt: Trt, features):\n if features.weak_types: return trt.BuilderFlag.FP16",
        "def f(trt: Trt, features):\n if not features.weak_types: raise E\n return trt.BuilderFlag.FP16",
        "def f(trt: Trt, features): return features.weak_types and trt.BuilderFlag.FP16",
        "def f(trt: Trt, p): return trt.BuilderFlag.FP16 if p.features.weak_types else 0",
        "def f(trt: Trt): return getattr(trt.BuilderFlag, 'FP16', None)",
        "def f(trt: Trt): return trt.__version__",
        "def f(other): return other.anything.goes",
        "class C:\n def open(self) -> Engine: ...\ndef f(c):\n e = c.open()\n e.num_io_tensors",
        "def load() -> Trt: ...\nclass C:\n def f(self, file): return file.load().anything",
    ],
)
def test_what_exists_on_its_branch_is_no_fault(contract: Any, code: str) -> None:
    assert contract.check({"x": code}) == []


def test_a_misspelt_name_in_our_own_code_is_found(contract: Any) -> None:
    sources = {path.name: path.read_text() for path in FILES}
    wrong = sources["config.py"].replace(
        "clear_flag(trt.BuilderFlag.TF32)", "clear_flag(trt.BuilderFlag.TF_32)"
    )
    assert wrong != sources["config.py"]
    (fault,) = contract.check(sources | {"config.py": wrong})
    assert "BuilderFlag.TF_32 does not exist in 8.6, 10.3, 10.13, 11.4" in fault


def test_a_lost_guard_in_our_own_code_is_found(contract: Any) -> None:
    sources = {path.name: path.read_text() for path in FILES}
    wrong = sources["hold.py"].replace("if not features.weak_types:", "if not wanted_types:")
    assert wrong != sources["hold.py"]
    faults = contract.check(sources | {"hold.py": wrong})
    assert any("ILayer.precision does not exist in 11.4" in fault for fault in faults)


def test_tensorrt_is_imported_in_one_place() -> None:
    found = [
        path.name
        for path in ROOT.rglob("*.py")
        if re.search(r"^\s*(import tensorrt|from tensorrt)", path.read_text(), re.MULTILINE)
    ]
    assert found == ["compat.py"]
