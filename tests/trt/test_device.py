"""The facts that tell one device from another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tofe_export.fields import Fields
from tofe_export.trt import device as module
from tofe_export.trt.device import Device, driver_version, this_device
from tofe_export.trt.jetson import board_name, jetpack, l4t_release

RELEASE = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
)


def test_l4t_release(tmp_path: Path) -> None:
    file = tmp_path / "nv_tegra_release"
    assert l4t_release(file) is None
    file.write_text(RELEASE)
    assert l4t_release(file) == "36.4.3"
    file.write_text("something else\n")
    assert l4t_release(file) is None


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("32.7.1", "4"),
        ("35.4.1", "5"),
        ("36.3.0", "6.0"),
        ("36.4.3", "6.1 or 6.2"),
        ("38.2", "7.0 or 7.1"),
        ("39.2", "7.2"),
        ("36.9", None),
        ("40.1", None),
    ],
)
def test_jetpack(release: str, expected: str | None) -> None:
    assert jetpack(release) == expected


def test_board_name(tmp_path: Path) -> None:
    file = tmp_path / "model"
    assert board_name(file) is None
    file.write_bytes(b"NVIDIA Jetson Orin Nano Developer Kit\0")
    assert board_name(file) == "NVIDIA Jetson Orin Nano Developer Kit"


def test_driver_version(tmp_path: Path) -> None:
    file = tmp_path / "version"
    assert driver_version(file) is None
    file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  560.35.03  Fri Aug 16 21:39:15 UTC\n")
    assert driver_version(file) == "560.35.03"


@pytest.mark.parametrize(
    ("gpu", "board", "slug"),
    [
        ("NVIDIA L4", None, "l4"),
        ("NVIDIA GeForce RTX 4090", None, "rtx-4090"),
        ("NVIDIA H100 80GB HBM3", None, "h100-80gb-hbm3"),
        ("Orin", "NVIDIA Jetson Orin Nano Developer Kit", "jetson-orin-nano"),
        ("Orin", "NVIDIA Jetson AGX Orin Developer Kit", "jetson-agx-orin"),
        ("Orin", "NVIDIA Jetson Orin NX Engineering Reference Developer Kit", "jetson-orin-nx"),
        ("NVIDIA", None, "gpu"),
    ],
)
def test_slug(device: Device, gpu: str, board: str | None, slug: str) -> None:
    assert replace(device, gpu=gpu, board=board, l4t="36.4.3" if board else None).slug == slug


def test_describe(device: Device) -> None:
    assert device.describe() == (
        "NVIDIA Jetson Orin Nano Developer Kit (compute capability 8.7), CUDA 12.6, driver 540.4.0, "
        "L4T 36.4.3 (JetPack 6.1 or 6.2)"
    )
    plain = replace(device, board=None, l4t=None, driver=None)
    assert plain.describe() == "Orin (compute capability 8.7), CUDA 12.6"


def test_json_comes_back(device: Device) -> None:
    assert Device.read(Fields(device.to_json(), "device")) == device
    with pytest.raises(ValueError, match=r"device\.gpu: expected a string, found 3"):
        Device.read(Fields(device.to_json() | {"gpu": 3}, "device"))


def test_this_device(monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    cuda: Any = SimpleNamespace(
        device_name=lambda: "Orin",
        compute_capability=lambda: "8.7",
        memory=lambda: 8 << 30,
        runtime_version=lambda: "12.6",
        driver_version=lambda: "12.6",
    )
    monkeypatch.setattr(module, "l4t_release", lambda: "36.4.3")
    monkeypatch.setattr(module, "board_name", lambda: device.board)
    monkeypatch.setattr(module, "driver_version", lambda: "540.4.0")
    assert this_device(cuda) == device
    monkeypatch.setattr(module, "l4t_release", lambda: None)  # a container without the file
    assert this_device(cuda).name == device.board
    monkeypatch.setattr(module, "board_name", lambda: "PowerEdge R750")
    assert this_device(cuda).name == "Orin"


def test_same_kind(device: Device) -> None:
    assert device.same_kind(replace(device, driver="1", cuda_runtime="13.0", memory_bytes=1, l4t=None))
    assert device.same_kind(replace(device, board=None))
    assert not device.same_kind(replace(device, board="NVIDIA Jetson AGX Orin Developer Kit"))
    assert not device.same_kind(replace(device, compute_capability="8.6"))
    assert not device.same_kind(replace(device, gpu="NVIDIA L4"))
