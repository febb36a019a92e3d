"""TensorRT's API per version, from `data/`; a device, platforms and bundles for tests."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tofe_export.bundle import Bundle
from tofe_export.files import sha256_bytes
from tofe_export.manifest import File, Variant
from tofe_export.trt.compat import Features
from tofe_export.trt.device import Device
from tofe_export.trt.platform import Platform

DATA = Path(__file__).parent / "data"
VERSIONS = ("8.6", "10.3", "10.13", "11.4")


@dataclass(frozen=True)
class Inventory:
    """One version's names."""

    version: str
    classes: dict[str, dict[str, str]]  # class -> member -> signature, "property" or "value"
    other_classes: frozenset[str]
    functions: frozenset[str]


def read_inventory(name: str) -> Inventory:
    data = json.loads((DATA / f"{name}.json").read_text())
    return Inventory(
        data["version"], data["classes"], frozenset(data["other_classes"]), frozenset(data["functions"])
    )


def make_module(inventory: Inventory) -> Any:
    """A module with the classes of one version; enum members are strings, everything else is inert."""
    module = ModuleType("tensorrt")
    module.__version__ = inventory.version  # type: ignore[attr-defined]
    for name, members in inventory.classes.items():
        made = {
            member: f"{name}.{member}" if kind == "value" else (lambda *args: None)
            for member, kind in members.items()
            if not member.startswith("__")
        }
        setattr(module, name, type(name, (), made))
    return module


def _load(name: str) -> ModuleType:
    """A helper module beside this file; `tests` is no package."""
    spec = importlib.util.spec_from_file_location(f"tests_trt_{name}", Path(__file__).parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def inventories() -> dict[str, Inventory]:
    """Every version's names."""
    return {name: read_inventory(name) for name in VERSIONS}


@pytest.fixture(scope="session")
def api_module(inventories: dict[str, Inventory]) -> Callable[[str], Any]:
    """`api_module("10.3")`: a module that has TensorRT 10.3's names."""
    return lambda name: make_module(inventories[name])


@pytest.fixture
def device() -> Device:
    """A Jetson Orin Nano with JetPack 6.2."""
    return Device(
        gpu="Orin",
        compute_capability="8.7",
        memory_bytes=8 << 30,
        cuda_runtime="12.6",
        cuda_driver="12.6",
        driver="540.4.0",
        board="NVIDIA Jetson Orin Nano Developer Kit",
        l4t="36.4.3",
    )


@pytest.fixture(scope="session")
def standin() -> Any:
    """The module standin.py: `Script`, `module`, `Layer`, `Tensor`, `Network`, `plan_bytes`."""
    return _load("standin")


@pytest.fixture
def make_platform(api_module: Callable[[str], Any], standin: Any, device: Device) -> Callable[..., Platform]:
    """`make_platform("10.3", script)`: the stand-in of a version on the Jetson."""

    def make(version: str = "10.3", script: Any = None) -> Platform:
        trt = standin.module(api_module(version), script or standin.Script())
        return Platform(trt, Features.of(trt), device)

    return make


def _typed(bundle: Bundle, variant: Variant, precision: str) -> Variant:
    """The same variant in half precision, its graph written."""
    name = variant.name.replace("fp32", precision)
    data = f"typed {name}".encode()
    (bundle.path / "variants" / f"{name}.onnx").write_bytes(data)
    probe = None
    if variant.probe:
        probe = File(f"variants/{name}.probe.onnx", sha256_bytes(b"probe" + data))
        (bundle.path / probe.file).write_bytes(b"probe" + data)
    return replace(
        variant,
        name=name,
        file=f"variants/{name}.onnx",
        sha256=sha256_bytes(data),
        probe=probe,
        precision=precision,
        targets=("10.3", "10.13", "10.16", "11.4"),
        extra={"twin": variant.name, "float32_nodes": {"selector/MatMul": "selector"}},
    )


@pytest.fixture
def typed_bundle(bundle: Bundle) -> Bundle:
    """The small bundle with fp32, fp16 and bf16 variants, as an export with --precision writes it."""
    held = {"hold_float32": ["selector/MatMul"]}
    targets = ("8.6", "10.3", "10.13", "10.16", "11.4")
    plain = [replace(v, extra=held, targets=targets) for v in bundle.manifest.variants]
    typed = [_typed(bundle, variant, precision) for precision in ("fp16", "bf16") for variant in plain]
    manifest = replace(bundle.manifest, variants=(*plain, *typed))
    (bundle.path / "manifest.json").write_text(json.dumps(manifest.to_json()), encoding="utf-8")
    return Bundle.open(bundle.path)
