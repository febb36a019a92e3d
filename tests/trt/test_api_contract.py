"""Every TensorRT attribute that the code touches exists in every version on which that line runs.

How that is found out: tests/helpers/tensorrt_contract, which follows the text and runs nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tensorrt_contract import Contract

from tofe_export.trt.compat import Features

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "tofe_export"
FILES = [
    *sorted((PACKAGE / "trt").glob("*.py")),
    *sorted((PACKAGE / "runtime").glob("*.py")),
    ROOT / "benchmarks" / "on_device" / "look.py",
]
SOURCES = {path.name: path.read_text() for path in FILES}


@pytest.fixture
def contract(inventories: dict[str, Any], api_module: Callable[[str], Any]) -> Contract:
    features = {name: Features.of(api_module(name)) for name in inventories}
    return Contract(inventories, features)


def test_every_name_exists_where_it_is_used(contract: Contract) -> None:
    assert contract.check(SOURCES) == []
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
    assert len(contract.used) > 100


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("def f(trt: Trt): trt.BuilderFlags", "x:1: BuilderFlags does not exist in 8.6, 10.3, 10.13, 11.4"),
        ("def f(trt: Trt): return trt.BuilderFlag.FP16", "BuilderFlag.FP16 does not exist in 11.4"),
        ("def f(b: Builder): b.build_engine", "Builder.build_engine does not exist in 10.3, 10.13, 11.4"),
        ("def f(b: Builder): b.create_builder_config().max_workspace", "IBuilderConfig.max_workspace does"),
        ("def f(layers: list[Layer]):\n for one in layers: one.precison = 1", "ILayer.precison does not"),
        (
            "def f(layers: list[Layer]) -> dict[str, Layer]: return {l.nam: l for l in layers}",
            "ILayer.nam does not exist",
        ),
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
def test_a_name_that_does_not_exist_is_found(contract: Contract, code: str, fault: str) -> None:
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
def test_what_exists_on_its_branch_is_no_fault(contract: Contract, code: str) -> None:
    assert contract.check({"x": code}) == []


def test_a_misspelt_name_in_our_own_code_is_found(contract: Contract) -> None:
    wrong = SOURCES["config.py"].replace(
        "clear_flag(trt.BuilderFlag.TF32)", "clear_flag(trt.BuilderFlag.TF_32)"
    )
    assert wrong != SOURCES["config.py"]
    (fault,) = contract.check(SOURCES | {"config.py": wrong})
    assert "BuilderFlag.TF_32 does not exist in 8.6, 10.3, 10.13, 11.4" in fault


def test_a_lost_guard_in_our_own_code_is_found(contract: Contract) -> None:
    wrong = SOURCES["hold.py"].replace("if not features.weak_types:", "if not wanted_types:")
    assert wrong != SOURCES["hold.py"]
    faults = contract.check(SOURCES | {"hold.py": wrong})
    assert any("ILayer.precision does not exist in 11.4" in fault for fault in faults)


NOWHERE = "does not exist in 8.6, 10.3, 10.13, 11.4"


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        # by a name in a string
        ("def f(trt: Trt): getattr(trt.BuilderFlag, 'FP16')", "BuilderFlag.FP16 does not exist in 11.4"),
        ("def f(b: Builder): getattr(b, 'create_builder_config')().nam", f"IBuilderConfig.nam {NOWHERE}"),
        ("def f(c: BuilderConfig): setattr(c, 'nam', 1)", f"IBuilderConfig.nam {NOWHERE}"),
        ("def f(trt: Trt): return trt.BuilderFlag['FP61']", f"BuilderFlag.FP61 {NOWHERE}"),
        ("def f(trt: Trt, p): return getattr(trt.BuilderFlag, p)", "a name that is not in the text"),
        ("def f(trt: Trt, p): return trt.BuilderFlag[p]", "a name that is not in the text"),
        ("def f(trt: Trt): return attrgetter('Nam')(trt)", "module tensorrt is lost in a call of attrgetter"),
        ("def f(trt: Trt): return vars(trt)['Nam']", "module tensorrt is lost in a call of vars"),
        ("def f(trt: Trt, features):\n if not features.weak_types: getattr(trt.BuilderFlag, 'FP16', None)",
         "BuilderFlag.FP16 does not exist in 11.4"),
        # on an object that a call gives
        ("def f(b: Builder): b.create_network(0).get_layer(0).get_output(0).nam", f"ITensor.nam {NOWHERE}"),
        ("def f(trt: Trt, l):\n with trt.Runtime(l) as r: r.nam", f"Runtime.nam {NOWHERE}"),
        ("def f(b: Builder):\n if (c := b.create_builder_config()): c.nam", f"IBuilderConfig.nam {NOWHERE}"),
        ("def f(b: Builder):\n c = x or b.create_builder_config()\n c.nam", f"IBuilderConfig.nam {NOWHERE}"),
        ("def f(b: Builder):\n for c in [b.create_builder_config()]: c.nam", f"IBuilderConfig.nam {NOWHERE}"),
        ("def f(d: dict[str, Layer]):\n for n, l in d.items(): l.nam", f"ILayer.nam {NOWHERE}"),
        ("def f(ls: list[Layer]): next(l for l in ls).nam", f"ILayer.nam {NOWHERE}"),
        ("def f(ls: list[Layer]):\n a, *b = ls\n b[1:][0].nam", f"ILayer.nam {NOWHERE}"),
        ("def f(ls: list[Layer]): len(sorted(ls, key=lambda l: l.nam))", f"ILayer.nam {NOWHERE}"),
        ("def f(ls: list[Layer]): return list(map(str, ls))", "iter ILayer is lost in a call of map"),
        # a member of an enumeration
        ("def f(trt: Trt):\n flags = trt.BuilderFlag\n return flags.FP61", f"BuilderFlag.FP61 {NOWHERE}"),
        ("def f(trt: Trt): return trt.DataType.FP61", f"DataType.FP61 {NOWHERE}"),
        ("def f(trt: Trt, x):\n match x:\n  case 1: trt.DataType.FP61", f"DataType.FP61 {NOWHERE}"),
        ("def f(trt: Trt): return trt.DataType.INT64", "DataType.INT64 does not exist in 8.6"),
        # an argument
        ("def f(b: Builder): b.create_network(flgs=0)", "Builder.create_network has no parameter 'flgs'"),
        ("def f(b: Builder): b.create_network(0, flags=0)", "is given 'flags' twice"),
        ("def f(c: BuilderConfig, p): c.set_memory_pool_limit(p)", "needs 'pool_size'"),
        ("def f(b: Builder): b.create_network(0, 1)", "takes 1 arguments, 2 are given"),
        ("def f(trt: Trt, l): trt.Runtime(loggr=l)", "Runtime.__init__ has no parameter 'loggr'"),
        # in a helper
        ("def g(c): c.nam\ndef f(b: Builder): g(b.create_builder_config())", "lost in a call of g"),
        ("def g(c: Any): c.nam\ndef f(b: Builder): g(c=b.create_builder_config())", "lost in a call of g"),
        ("def g(b: Builder): return b.create_builder_config()", "lost in the result, which is declared"),
        ("def g(ls: list[Layer]) -> Any:\n for l in ls: yield l", "ILayer is lost in what is yielded"),
        ("class C:\n def __init__(self, t: Trt): self.t = t", "module tensorrt is lost in the attribute t"),
        ("class C:\n x: Any\n @classmethod\n def f(cls, t: Trt): return cls(t)", "lost in a call of cls"),
        ("def g(c: 'BuilderConfig', /): c.nam", f"IBuilderConfig.nam {NOWHERE}"),
        ("def g(*cs: BuilderConfig):\n for c in cs: c.nam", f"IBuilderConfig.nam {NOWHERE}"),
        ("async def g(*, c: BuilderConfig): c.nam", f"IBuilderConfig.nam {NOWHERE}"),
        ("def g(x):\n c = cast(BuilderConfig, x)\n c.nam", f"IBuilderConfig.nam {NOWHERE}"),
        # where a value is stored
        ("def f(c: BuilderConfig): a, c.nam = 1, 2", f"IBuilderConfig.nam {NOWHERE}"),
        ("def f(c: BuilderConfig): c.nam: int = 1", f"IBuilderConfig.nam {NOWHERE}"),
        ("def f(c: BuilderConfig, m): c.progress_monitor = m", "progress_monitor does not exist in 8.6"),
        ("def f(c: BuilderConfig): return {c: 1}", "IBuilderConfig is lost in a dictionary's keys"),
        ("def f(c: BuilderConfig, d): d['c'] = c", "IBuilderConfig is lost in d['c']"),
        # in an import
        ("import tensorrt\ntensorrt.BuilderFlags", f"BuilderFlags {NOWHERE}"),
        ("from tensorrt import BuilderFlag", "import tensorrt as a whole"),
        ("import_module('tensorrt').BuilderFlags", "import tensorrt by a statement"),
    ],
)  # fmt: skip
def test_there_is_no_way_around_it(contract: Contract, code: str, fault: str) -> None:
    (found,) = contract.check({"x": code})
    assert fault in found


def test_a_call_in_our_own_code_that_does_not_fit_is_found(contract: Contract) -> None:
    wrong = SOURCES["config.py"].replace("WORKSPACE, options", "WORKSPACE, size=options")
    assert wrong != SOURCES["config.py"]
    (fault,) = contract.check(SOURCES | {"config.py": wrong})
    assert "IBuilderConfig.set_memory_pool_limit has no parameter 'size', only pool, pool_size" in fault


def test_an_annotation_that_is_missing_in_our_own_code_is_found(contract: Contract) -> None:
    wrong = SOURCES["hold.py"].replace("def layers(network: Network)", "def layers(network: Any)")
    assert wrong != SOURCES["hold.py"]
    faults = contract.check(SOURCES | {"hold.py": wrong})
    assert any("INetworkDefinition is lost in a call of layers" in fault for fault in faults)


def test_nothing_else_touches_tensorrt() -> None:
    """Elsewhere nothing is followed: no module there imports it, or takes it from a platform."""
    folders = (PACKAGE, ROOT / "cli", ROOT / "calibration", ROOT / "benchmarks")
    paths = {path for folder in folders for path in folder.rglob("*.py")} - set(FILES)
    found = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr == "trt":
                found.append(f"{path.name}:{node.lineno}")
            names = [a.name for a in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            if module == "tofe_export.trt.api" or "tensorrt" in (module.partition(".")[0], *names):
                found.append(f"{path.name}:{getattr(node, 'lineno', 0)}")
    assert found == []


def test_tensorrt_is_imported_in_one_place() -> None:
    importing = [
        name
        for name, text in SOURCES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import) and any(a.name.partition(".")[0] == "tensorrt" for a in node.names)
    ]
    assert importing == ["compat.py"]
