"""The machine beside every figure: which one it is, how it is set, what is installed, what it does right now.

    identity  processor, cores, memory, GPU, board: another identity is another machine
    mode      governor and power mode: the same machine, but not the same speed
    versions  what may be the very reason for measuring again
    now       load, clocks, temperature: taken before and after

Whatever the system does not tell is null.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_export import __version__
from tofe_export.bench import gpu
from tofe_export.bench.gpu import read_number, read_text
from tofe_export.trt.jetson import board_name, l4t_release

if TYPE_CHECKING:
    from tofe_export.trt.device import Device

_RUNTIMES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt")
_FREQUENCY = "sys/devices/system/cpu/cpu0/cpufreq"

Facts = dict[str, Any]


def facts(
    device: Device | None = None, root: Path = Path("/"), query: gpu.Query | None = None
) -> dict[str, Facts]:
    """All facts but `now`. `device`: the GPU that CUDA computes on, where it is known."""
    seen = gpu.look(device.gpu if device else None, root, query)
    board = device.board if device else board_name(root / "proc/device-tree/model")
    return {
        "identity": {
            "processor": processor(root),
            "architecture": platform.machine(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "cpu_quota": read_text(root / "sys/fs/cgroup/cpu.max"),  # "max 100000": no limit
            "memory_gib": _memory_gib(root),
            "gpu": device.gpu if device else seen and seen.name,
            "compute_capability": device.compute_capability if device else None,
            "board": board,
        },
        "mode": {
            "governor": read_text(root / _FREQUENCY / "scaling_governor"),
            "power_mode": seen and seen.power_mode,
            "gpu_power_limit_w": seen and seen.power_limit_w,
            "gpu_highest_clock_mhz": seen and seen.highest_clock_mhz,
        },
        "versions": {
            "tofe-export": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
            **{name: found for name in _RUNTIMES if (found := _version(name))},
            "driver": device.driver if device else seen and seen.driver,
            "cuda": device.cuda_runtime if device else None,
            "l4t": device.l4t if device else l4t_release(root / "etc/nv_tegra_release"),
        },
    }


def now(name: str | None = None, root: Path = Path("/"), query: gpu.Query | None = None) -> Facts:
    """Load and clocks at this moment."""
    seen = gpu.look(name, root, query)
    return {
        "load_average": list(os.getloadavg()),
        "cpu_mhz": _cpu_mhz(root),
        "gpu_clock_mhz": seen and seen.clock_mhz,
        "gpu_memory_clock_mhz": seen and seen.memory_clock_mhz,
        "gpu_temperature_c": seen and seen.temperature_c,
    }


def processor(root: Path = Path("/")) -> str | None:
    """The processor's name; on ARM, where Linux knows none, its implementer and part numbers."""
    lines = _cpuinfo(root)
    if name := lines.get("model name"):
        return name
    if "CPU part" in lines:
        return f"ARM implementer {lines.get('CPU implementer')} part {lines['CPU part']}"
    return platform.processor() or None


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's lines."""
    first = (read_text(root / "proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_mhz(root: Path) -> float | None:
    governed = read_number(root / _FREQUENCY / "scaling_cur_freq", 1e-3)
    if governed is not None:
        return governed
    try:
        return float(_cpuinfo(root).get("cpu MHz", ""))
    except ValueError:
        return None


def _memory_gib(root: Path) -> float | None:
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return round(int(line.split()[1]) / 2**20, 1)
    return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
