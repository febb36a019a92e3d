"""A small bundle for tests that need one: two reduced variants and the dense one, on 4 patches of 2 x 2.

Its graphs are arbitrary bytes; tests that run graphs make their own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tofe_export.budget import Cost
from tofe_export.bundle import Bundle
from tofe_export.files import sha256_bytes
from tofe_export.manifest import File, Manifest, Model, ReferenceInfo, Variant, WeightsFile
from tofe_export.preprocess import Preprocessing
from tofe_export.reference import Reference

BuildBundle = Callable[[Path], Bundle]
WEIGHTS = "variants/weights-0123456789ab.bin"


def _reference() -> Reference:
    random = np.random.RandomState(0)
    images = random.standard_normal((2, 3, 8, 8)).astype(np.float32)
    sources = [random.randint(0, 256, (9, 7, 3)).astype(np.uint8), np.zeros((8, 12, 3), np.uint8)]
    scores = random.standard_normal((2, 1, 4)).astype(np.float32)
    scores[0, 0, 3] = np.nan
    reference = Reference(images, sources, {})
    reference = reference.with_entry("dense", random.standard_normal((2, 5)).astype(np.float32))
    return reference.with_entry(
        "keep-2", random.standard_normal((2, 5)).astype(np.float32), scores, scores > 0
    )


def _variant(name: str, files: Mapping[str, bytes], budget: float | None, batch: int = 1) -> Variant:
    file, probe = f"variants/{name}.onnx", f"variants/{name}.probe.onnx"
    return Variant(
        name=name,
        file=file,
        sha256=sha256_bytes(files[file]),
        probe=None if budget is None else File(probe, sha256_bytes(files[probe])),
        budget_gmacs=budget,
        gmacs=1.5,
        gmacs_executed=1.25,
        keep=None if budget is None else (2,),
        thresholds=None,
        source="training",
        lowering="dense" if budget is None else "scatter",
        precision="fp32",
        batch=batch,
        opset=17,
        targets=("8.6", "10.3"),
        reference="dense" if budget is None else "keep-2",
        weights=(WEIGHTS,),
        extra={"nodes": {"selector": ["MatMul_1"]}} if budget is not None else {},
    )


def _manifest(files: Mapping[str, bytes], reference: Reference) -> Manifest:
    cost = Cost(
        tokens=4,
        prefix=1,
        width=8,
        depth=2,
        attention_width=8,
        token_macs=768,
        stem_macs=100,
        head_macs=40,
        head_token_macs=0,
        locations=(1,),
        selector="mlp",
        approximator="bottleneck",
        reuse=True,
    )
    model = Model(
        backbone="toy",
        arguments={"img_size": 8},
        checkpoint_sha256="0" * 64,
        trained=False,
        selector="mlp",
        approximator="bottleneck",
        reuse=True,
        locations=(1,),
        tokens=4,
        prefix=1,
        grid=(2, 2),
        num_classes=5,
        output="logits",
    )
    info = ReferenceInfo(
        "reference.npz",
        sha256_bytes(files["reference.npz"]),
        reference.images_sha256(),
        "built-in images",
        len(reference),
    )
    return Manifest(
        tool_version="0.1.0",
        created="2025-01-02T03:04:05+00:00",
        model=model,
        cost=cost,
        preprocessing=Preprocessing((8, 8), 0.875, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.25)),
        classes=("a", "b", "c", "d", "é"),
        reference=info,
        weights=(WeightsFile(WEIGHTS, sha256_bytes(files[WEIGHTS]), len(files[WEIGHTS])),),
        variants=(
            _variant("dense-fp32-b1", files, None),
            _variant("2.00g-scatter-fp32-b1", files, 2.0),
            _variant("1.50g-scatter-fp32-b4", files, 1.5, batch=4),
        ),
    )


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_works() -> None:
    """A job in the background starts with Ctrl-C ignored, and tests of interrupts would wait for ever."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def reference() -> Reference:
    """Two images, key "keep-2" with one selection, key "dense" without."""
    return _reference()


@pytest.fixture
def build_bundle(reference: Reference) -> BuildBundle:
    """Write the small bundle to a path, file by file, and open it."""

    def build(path: Path) -> Bundle:
        (path / "variants").mkdir(parents=True)
        files = {WEIGHTS: b"weights", "variants/dense-fp32-b1.onnx": b"dense"}
        for name in ("2.00g-scatter-fp32-b1", "1.50g-scatter-fp32-b4"):
            files[f"variants/{name}.onnx"] = name.encode()
            files[f"variants/{name}.probe.onnx"] = b"probe " + name.encode()
        for relative, data in files.items():
            (path / relative).write_bytes(data)
        reference.save(path / "reference.npz")
        files["reference.npz"] = (path / "reference.npz").read_bytes()
        manifest = _manifest(files, reference)
        (path / "manifest.json").write_text(json.dumps(manifest.to_json()), encoding="utf-8")
        return Bundle(path, manifest)

    return build


@pytest.fixture
def bundle(build_bundle: BuildBundle, tmp_path: Path) -> Bundle:
    """The small bundle at `tmp_path / "bundle"`."""
    return build_bundle(tmp_path / "bundle")


@pytest.fixture
def renamed() -> Callable[[Manifest, str], Manifest]:
    """The same manifest as if another version of the tool had written it: a change that is easy to see."""
    return lambda manifest, version: replace(manifest, tool_version=version)


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts real file systems of a size such as "64k"; skips where that is not allowed."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        mount = shutil.which("mount")
        if os.geteuid() != 0 or mount is None:
            pytest.skip("mounting a file system needs root")
        disk = tmp_path / f"disk of {size}"
        disk.mkdir()
        line = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
        if subprocess.run(line, capture_output=True).returncode:
            pytest.skip("this system does not allow mounts")
        mounted.append(disk)
        return disk

    yield make
    for disk in mounted:
        subprocess.run(["umount", disk], check=True)
