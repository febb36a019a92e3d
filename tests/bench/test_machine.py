"""The machine's facts, from files as other systems write them, and from this one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tofe_export import __version__
from tofe_export.bench import machine
from tofe_export.trt.device import Device


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


DESKTOP = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Fast 9000\ncpu MHz\t: 2596.137\n\nprocessor\t: 1\n",
    "proc/meminfo": "MemTotal:       16777216 kB\nMemFree: 1 kB\n",
}
JETSON = {
    "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 1\n",
    "var/lib/nvpmodel/status": "pmode:0001",
}


def test_a_desktop(tmp_path: Path) -> None:
    found = machine.facts(root=write(tmp_path, DESKTOP), query=lambda: "NVIDIA L4, 550, 1, 2040, 3, 72, 4\n")
    identity = found["identity"]
    assert (identity["processor"], identity["memory_gib"]) == ("Fast 9000", 16.0)
    assert identity["gpu"] == "NVIDIA L4"
    assert (identity["board"], identity["cpu_quota"]) == (None, None)
    assert found["mode"]["gpu_power_limit_w"] == 72
    assert (found["versions"]["driver"], found["versions"]["tofe-export"]) == ("550", __version__)
    now = machine.now(root=tmp_path, query=lambda: None)
    assert (now["cpu_mhz"], now["gpu_clock_mhz"]) == (2596.137, None)


def test_a_jetson(tmp_path: Path) -> None:
    root = write(tmp_path, JETSON)
    device = Device("Orin", "8.7", 8 << 30, "12.6", "12.6", "540.4.0", "NVIDIA Jetson Orin Nano", "36.4.3")
    for known in (None, device):
        found = machine.facts(known, root)
        assert found["identity"]["processor"] == "ARM implementer 0x41 part 0xd42"
        assert found["identity"]["board"].startswith("NVIDIA Jetson Orin Nano")
        assert found["mode"]["governor"] == "schedutil"
        assert found["mode"]["power_mode"] == "1"
        assert found["versions"]["l4t"] == "36.4.3"
    assert (found["identity"]["gpu"], found["identity"]["compute_capability"]) == ("Orin", "8.7")
    assert machine.now(root=root)["cpu_mhz"] == pytest.approx(729.6)


def test_a_system_that_tells_nothing(tmp_path: Path) -> None:
    found = machine.facts(root=tmp_path, query=lambda: None)
    unknown = {**found["identity"], **found["mode"]}
    for key in ("memory_gib", "gpu", "board", "governor", "power_mode"):
        assert unknown[key] is None
    assert machine.now(root=tmp_path, query=lambda: None)["cpu_mhz"] is None


def test_this_machine_is_the_same_as_itself() -> None:
    assert machine.facts() == machine.facts()
    assert machine.facts()["identity"]["cores"] >= 1
    assert len(json.loads(json.dumps(machine.now()))["load_average"]) == 3
