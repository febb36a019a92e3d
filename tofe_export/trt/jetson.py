"""Which Jetson this is, read from the files that NVIDIA's Linux for Tegra (L4T) keeps.

L4T's release decides which JetPack, and with it which TensorRT, a device has. CUDA calls every Orin "Orin",
although an engine of an AGX Orin is not one for an Orin Nano: the board's name tells them apart.
"""

from __future__ import annotations

import re
from pathlib import Path

RELEASE_FILE = Path("/etc/nv_tegra_release")
MODEL_FILE = Path("/proc/device-tree/model")

_JETPACKS = {
    "32": "4",
    "35": "5",
    "36.2": "6.0 (developer preview)",
    "36.3": "6.0",
    "36.4": "6.1 or 6.2",
    "38": "7.0 or 7.1",
    "39": "7.2",
}


def l4t_release(file: Path = RELEASE_FILE) -> str | None:
    """The release, such as "36.4.3"; None where this is no Jetson."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"R(\d+).*?REVISION:\s*(\d+(?:\.\d+)*)", text)
    return f"{found[1]}.{found[2]}" if found else None


def jetpack(release: str) -> str | None:
    """The JetPack of an L4T release, as far as it is known: "6.1 or 6.2" of "36.4.3"."""
    major, _, rest = release.partition(".")
    minor = rest.split(".")[0]
    return _JETPACKS.get(f"{major}.{minor}", _JETPACKS.get(major))


def board_name(file: Path = MODEL_FILE) -> str | None:
    """The board, such as "NVIDIA Jetson Orin Nano Developer Kit"; None where nothing names one."""
    try:
        text = file.read_bytes()
    except OSError:
        return None
    name = text.rstrip(b"\0").decode("utf-8", "replace").strip()
    return name or None
