"""The GPU's name, clocks and power mode, as far as the system tells without asking for rights.

nvidia-smi on desktops and servers. A Jetson up to JetPack 6 has none that tells: its clock is a file below
/sys/class/devfreq (named 17000000.gpu on Orin, after the chip on older boards, gpu-gpc-0 on Thor), and the
power mode is the number that nvpmodel leaves in /var/lib/nvpmodel/status ("pmode:0002"), whose name is in
/etc/nvpmodel.conf. What cannot be read is None.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_FIELDS = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.limit",
    "temperature.gpu",
)
_CLOCKS = re.compile(r".*\.(gpu|ga10b|gv11b|gp10b)$|gpu-gpc-0$")
_SECONDS = 10  # nvidia-smi may wake a sleeping GPU

Query = Callable[[], str | None]


@dataclass(frozen=True)
class Gpu:
    """One GPU, as its system describes it; clocks are those of the moment."""

    name: str | None = None
    driver: str | None = None
    clock_mhz: float | None = None
    highest_clock_mhz: float | None = None  # of the device; on a Jetson, of its power mode
    memory_clock_mhz: float | None = None
    power_limit_w: float | None = None
    temperature_c: float | None = None
    power_mode: str | None = None  # Jetson only


def look(name: str | None = None, root: Path = Path("/"), query: Query | None = None) -> Gpu | None:
    """The GPU of that name (None: the first); None where the system shows none."""
    if (mode := power_mode(root)) or any(_devfreq(root)):
        return _jetson(mode, root)
    rows = [_row(line) for line in ((query or ask_nvidia_smi)() or "").splitlines()]
    found = [gpu for gpu in rows if gpu is not None]
    return next((gpu for gpu in found if gpu.name == name), found[0] if found else None)


def ask_nvidia_smi() -> str | None:
    """One line of `_FIELDS` per GPU; None without nvidia-smi, or when it fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    line = [program, f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def power_mode(root: Path = Path("/")) -> str | None:
    """A Jetson's power mode by name ("MAXN", "15W"), or its number where the name is not known."""
    status = read_text(root / "var/lib/nvpmodel/status")
    number = re.search(r"pmode:(\d+)", status or "")
    if number is None:
        return None
    mode = int(number[1])
    named = re.search(rf"POWER_MODEL\s+ID={mode}\s+NAME=(\S+)", read_text(root / "etc/nvpmodel.conf") or "")
    return named[1] if named else str(mode)


def read_text(path: Path) -> str | None:
    """A small file's text without the blanks around it; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip().strip("\0")
    except OSError:
        return None


def read_number(path: Path, unit: float = 1.0) -> float | None:
    """A small file's number in another unit; None where there is none."""
    return _number(read_text(path) or "", unit)


def _jetson(mode: str | None, root: Path) -> Gpu:
    folder = next(iter(_devfreq(root)), None)
    if folder is None:
        return Gpu(power_mode=mode)
    return Gpu(
        clock_mhz=read_number(folder / "cur_freq", 1e-6),
        highest_clock_mhz=read_number(folder / "max_freq", 1e-6),
        power_mode=mode,
    )


def _devfreq(root: Path) -> list[Path]:
    folder = root / "sys/class/devfreq"
    return sorted(path for path in folder.glob("*") if _CLOCKS.fullmatch(path.name))


def _row(line: str) -> Gpu | None:
    cells = [cell.strip() for cell in line.split(",")]
    if len(cells) != len(_FIELDS):
        return None
    clock, highest, memory, power, temperature = (_number(cell) for cell in cells[2:])
    return Gpu(cells[0], cells[1], clock, highest, memory, power, temperature)


def _number(text: str, unit: float = 1.0) -> float | None:
    try:
        return float(text) * unit
    except ValueError:  # "[N/A]", or nothing
        return None
