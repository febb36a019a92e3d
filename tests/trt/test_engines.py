"""Plans and sidecars on the disk: found where they fit, refused with a reason where they do not."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, MissingBackend, WriteError
from tofe_export.files import sha256_bytes
from tofe_export.manifest import File
from tofe_export.trt.compat import Features
from tofe_export.trt.device import Device
from tofe_export.trt.engines import (
    Built,
    EngineFile,
    check_engine,
    engine_here,
    engines_of,
    find_engine,
    write_engine,
)
from tofe_export.trt.inspect import Layers
from tofe_export.trt.plan import engine_name, plan_version, read_head
from tofe_export.trt.request import BuildOptions
from tofe_export.trt.sidecar import SCHEMA_VERSION, Sidecar

NAME = "2.00g-scatter-fp16-b1"


@pytest.fixture
def features(api_module: Callable[[str], Any]) -> Features:
    return Features.of(api_module("10.3"))


@pytest.fixture
def built(typed_bundle: Bundle, device: Device, standin: Any) -> Built:
    variant = typed_bundle.variant(NAME)
    plan: bytes = standin.plan_bytes(b"layers")
    sidecar = Sidecar(
        tool_version="0.1.0",
        created="2026-01-01T00:00:00+00:00",
        plan=f"{engine_name(variant, device, '10.3.0')}.plan",
        plan_bytes=len(plan),
        plan_sha256=sha256_bytes(plan),
        plan_version=(10, 3, 0, 26),
        variant=NAME,
        probe=False,
        graph=File(variant.file, variant.sha256),
        twin=None,
        precision="fp16",
        typing="strong",
        batch=1,
        tensorrt="10.3.0",
        device=device,
        options=BuildOptions(opt_level=4),
        flags=("-TF32", "STRONGLY_TYPED"),
        seconds=12.5,
        verdict="honoured",
        network={"fp16": 90, "fp32": 30},
        layers=Layers({"fp16": 9, "fp32": 3}, 2, 0, "engine inspector"),
        held_float32=0,
        timing_cache="empty",
    )
    return Built(plan, sidecar)


@pytest.fixture
def engine(typed_bundle: Bundle, built: Built) -> EngineFile:
    return write_engine(typed_bundle, built)


def test_plan_version(standin: Any, tmp_path: Path) -> None:
    plan = standin.plan_bytes(version=(8, 6, 1, 6))
    assert plan_version(plan) == (8, 6, 1, 6)
    assert plan_version(plan[:27]) is None
    assert plan_version(b"\x08\x07\x12\x07pytorch" + bytes(40)) is None
    (tmp_path / "x.plan").write_bytes(plan)
    assert plan_version(read_head(tmp_path / "x.plan")) == (8, 6, 1, 6)


def test_engine_names(device: Device) -> None:
    assert engine_name(NAME, device, "10.3.0") == f"{NAME}.jetson-orin-nano.10.3.0"
    assert engine_name(NAME, device, "8.6.1 x/y", probe=True) == f"{NAME}.probe.jetson-orin-nano.8.6.1-x-y"


def test_plan_and_sidecar_lie_side_by_side(typed_bundle: Bundle, built: Built, engine: EngineFile) -> None:
    assert engine.path == typed_bundle.path / "engines" / f"{NAME}.jetson-orin-nano.10.3.0.plan"
    assert engine.path.read_bytes() == built.plan
    assert Sidecar.load(engine.path.with_suffix(".json")) == built.sidecar
    assert sorted(p.suffix for p in engine.path.parent.iterdir()) == [".json", ".plan"]
    assert engine.load() == built.plan


def test_a_full_disk_leaves_no_half_engine(
    typed_bundle: Bundle, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(WriteError, match="no space left on device"):
        write_engine(typed_bundle, built)
    assert list((typed_bundle.path / "engines").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plan: plan[:-1], "expected 34 bytes, found 33: the plan is truncated"),
        (lambda plan: b"", "found 0: the plan is truncated"),
        (lambda plan: b"PK" + plan[2:], "expected a TensorRT plan, found something else"),
        (lambda plan: plan[:-1] + b"!", "the plan was changed"),
        (lambda plan: plan + b"!", "the plan was changed"),
    ],
)
def test_a_plan_that_is_not_the_one_that_was_built(
    engine: EngineFile, change: Callable[[bytes], bytes], reason: str
) -> None:
    engine.path.write_bytes(change(engine.path.read_bytes()))
    with pytest.raises(BundleError, match=reason) as caught:
        engine.load()
    assert "tofe-export trt --force" in str(caught.value)
    engine.path.unlink()
    with pytest.raises(BundleError, match="No such file"):
        engine.load()


def test_the_engine_of_this_device_is_found(
    typed_bundle: Bundle, engine: EngineFile, device: Device, features: Features
) -> None:
    assert find_engine(typed_bundle, typed_bundle.variant(NAME), device, features) == engine
    assert engine_here(typed_bundle, typed_bundle.variant("dense-fp16-b1"), device, features) is None


def test_no_engine_says_how_to_build_one(typed_bundle: Bundle, device: Device, features: Features) -> None:
    variant = typed_bundle.variant(NAME)
    with pytest.raises(MissingBackend, match=f"none was built.*: tofe-export trt .* --variant {NAME}$"):
        find_engine(typed_bundle, variant, device, features)
    with pytest.raises(MissingBackend, match=r"\(probe\) for TensorRT 10.3.0 on NVIDIA Jetson.*--probe$"):
        find_engine(typed_bundle, variant, device, features, probe=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tensorrt": "10.16.1.11"}, "it was built by TensorRT 10.16.1.11, this is 10.3.0"),
        ({"tensorrt": "8.6.1"}, "it was built by TensorRT 8.6.1, this is 10.3.0"),
        (
            {"device": {"board": "NVIDIA Jetson AGX Orin Developer Kit"}},
            "it was built on NVIDIA Jetson AGX Orin Developer Kit",
        ),
        (
            {"device": {"board": None, "l4t": None, "gpu": "NVIDIA L4", "compute_capability": "8.9"}},
            r"it was built on NVIDIA L4 \(compute capability 8.9\), this is NVIDIA Jetson Orin Nano",
        ),
        ({"graph": {"sha256": "0" * 64}}, f"the bundle's graph variants/{NAME}.onnx changed since"),
    ],
)
def test_engines_from_elsewhere_are_refused(
    typed_bundle: Bundle,
    engine: EngineFile,
    device: Device,
    features: Features,
    changes: dict[str, Any],
    reason: str,
) -> None:
    file = engine.path.with_suffix(".json")
    data = json.loads(file.read_text())
    for key, value in changes.items():
        data[key] = data[key] | value if isinstance(value, dict) else value
    file.write_text(json.dumps(data))
    with pytest.raises(MissingBackend, match=reason) as caught:
        find_engine(typed_bundle, typed_bundle.variant(NAME), device, features)
    assert engine.path.name in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (  # of another variant, and renamed
            {"graph": {"file": "variants/1.50g-scatter-fp16-b4.onnx"}},
            f"it was built from variants/1.50g-scatter-fp16-b4.onnx of {NAME}, expected variants/{NAME}.onnx",
        ),
        (  # of the float32 graph, as on 8.6, but not by a flag
            {"twin": "2.00g-scatter-fp32-b1"},
            f"it was built from variants/{NAME}.onnx of 2.00g-scatter-fp32-b1, expected variants/{NAME}.onnx",
        ),
        (
            {"typing": "weak"},
            "expected variants/2.00g-scatter-fp32-b1.onnx of 2.00g-scatter-fp32-b1",
        ),
        ({"precision": "fp32"}, r"its sidecar says fp32 honoured \(strong\) at batch 1, expected fp16"),
        ({"verdict": "not honoured"}, "its sidecar says fp16 not honoured"),
        ({"typing": "float32"}, r"its sidecar says fp16 honoured \(float32\)"),
        ({"batch": 8}, "at batch 8, expected fp16 honoured at batch 1"),
    ],
)
def test_an_engine_is_of_its_variant_or_refused(
    typed_bundle: Bundle,
    engine: EngineFile,
    device: Device,
    features: Features,
    edit: dict[str, Any],
    reason: str,
) -> None:
    test_engines_from_elsewhere_are_refused(typed_bundle, engine, device, features, edit, reason)


def test_a_weakly_typed_engine_is_of_the_float32_graph(
    typed_bundle: Bundle, engine: EngineFile, device: Device, features: Features
) -> None:
    twin = typed_bundle.variant("2.00g-scatter-fp32-b1")
    graph = File(twin.file, twin.sha256)
    made = replace(engine.sidecar, typing="weak", twin=twin.name, graph=graph)
    weak = replace(engine, sidecar=made)
    assert check_engine(weak, typed_bundle, device, features) is None
    probe = replace(engine, sidecar=replace(made, probe=True))
    assert "expected variants/2.00g-scatter-fp32-b1.probe.onnx" in str(
        check_engine(probe, typed_bundle, device, features)
    )


def test_a_plan_that_is_gone(
    typed_bundle: Bundle, engine: EngineFile, device: Device, features: Features
) -> None:
    engine.path.unlink()
    assert check_engine(engine, typed_bundle, device, features) == f"the plan {engine.path.name} is gone"


@pytest.mark.parametrize(
    ("made", "here", "compatible", "fits"),
    [
        ("10.3.0", "10.3.0", False, True),
        ("10.3.0", "10.13.3.9", False, False),
        ("10.3.0", "10.13.3.9", True, True),
        ("10.13.3.9", "10.3.0", True, False),
        ("8.6.1", "10.3.0", True, True),
        ("10.3.0", "11.4.0.106", True, True),
        ("8.6.1", "11.4.0.106", True, False),
    ],
)
def test_version_compatible_plans(
    typed_bundle: Bundle,
    engine: EngineFile,
    device: Device,
    api_module: Callable[[str], Any],
    made: str,
    here: str,
    compatible: bool,
    fits: bool,
) -> None:
    options = BuildOptions(version_compatible=compatible)
    other = replace(engine, sidecar=replace(engine.sidecar, tensorrt=made, options=options))
    module = api_module("10.3")
    module.__version__ = here
    assert (check_engine(other, typed_bundle, device, Features.of(module)) is None) == fits


def test_the_engine_of_this_very_tensorrt_comes_first(
    typed_bundle: Bundle, built: Built, engine: EngineFile, device: Device, features: Features
) -> None:
    options = BuildOptions(version_compatible=True)
    older = replace(built.sidecar, tensorrt="10.0.1", plan="a-" + built.sidecar.plan, options=options)
    folder = typed_bundle.path / "engines"
    name = f"{NAME}.jetson-orin-nano.10.0.1"
    (folder / f"{name}.plan").write_bytes(built.plan)
    (folder / f"{name}.json").write_text(json.dumps(older.to_json()))
    variant = typed_bundle.variant(NAME)
    assert [e.sidecar.tensorrt for e in engines_of(typed_bundle, variant)] == ["10.0.1", "10.3.0"]
    assert find_engine(typed_bundle, variant, device, features) == engine
    engine.path.with_suffix(".json").unlink()
    assert find_engine(typed_bundle, variant, device, features).sidecar.tensorrt == "10.0.1"


def test_a_damaged_sidecar_hides_no_other_engine(
    typed_bundle: Bundle, engine: EngineFile, device: Device, features: Features
) -> None:
    (typed_bundle.path / "engines" / f"{NAME}.l4.10.3.0.json").write_text("{")
    variant = typed_bundle.variant(NAME)
    assert find_engine(typed_bundle, variant, device, features) == engine
    engine.path.with_suffix(".json").unlink()
    with pytest.raises(
        MissingBackend, match=r"l4\.10\.3\.0\.json: Expecting property name"
    ):  # not "none was built"
        find_engine(typed_bundle, variant, device, features)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, "reads up to 1: upgrade tofe-export"),
        ({"plan_bytes": "9"}, "plan_bytes: expected an integer of at least 0, found '9'"),
        ({"verdict": "perhaps"}, "verdict: expected one of honoured, not honoured, not provable"),
        ({"network": {"fp16": "many"}}, "network: expected numbers of layers"),
        ({"batch": 0}, "batch: expected an integer of at least 1"),
        ({"tensorrt": "new"}, "tensorrt: expected a version, found 'new'"),
        ({"surplus": 1}, "unknown key 'surplus'"),
    ],
)
def test_a_sidecar_that_was_edited(engine: EngineFile, edit: dict[str, Any], message: str) -> None:
    file = engine.path.with_suffix(".json")
    file.write_text(json.dumps(json.loads(file.read_text()) | edit))
    with pytest.raises(BundleError, match=message) as caught:
        Sidecar.load(file)
    assert str(file) in str(caught.value)
