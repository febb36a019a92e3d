"""GPUs as their systems show them, from files and lines as those systems write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tofe_export.bench.gpu import Gpu, ask_nvidia_smi, look, power_mode

LINES = """NVIDIA L4, 550.90.07, 2040, 2040, 6251, 72.00, 41
NVIDIA A2, 550.90.07, 210, 1770, 6251, [N/A], 30
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_nvidia_smi(tmp_path: Path) -> None:
    expected = Gpu("NVIDIA L4", "550.90.07", 2040, 2040, 6251, 72, 41)
    assert look(root=tmp_path, query=lambda: LINES) == expected
    other = look("NVIDIA A2", tmp_path, lambda: LINES)
    assert other == Gpu("NVIDIA A2", "550.90.07", 210, 1770, 6251, None, 30)


@pytest.mark.parametrize("answer", [None, "", "No devices were found\n"])
def test_no_gpu(answer: str | None, tmp_path: Path) -> None:
    assert look(root=tmp_path, query=lambda: answer) is None


@pytest.mark.parametrize("name", ["17000000.gpu", "17000000.ga10b", "gpu-gpc-0"])
def test_a_jetson_is_read_from_files(name: str, tmp_path: Path) -> None:
    folder = f"sys/class/devfreq/{name}"
    root = write(
        tmp_path,
        {
            f"{folder}/cur_freq": "306000000\n",
            f"{folder}/max_freq": "1020000000\n",
            "sys/class/devfreq/15340000.vic/cur_freq": "1\n",
            "var/lib/nvpmodel/status": "pmode:0002",
            "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        },
    )
    found = look(root=root, query=lambda: pytest.fail("nvidia-smi tells nothing on a Jetson"))
    assert found is not None
    assert found.power_mode == "MAXN_SUPER"
    assert (found.clock_mhz, found.highest_clock_mhz) == pytest.approx((306, 1020))


def test_a_power_mode_without_a_name_is_its_number(tmp_path: Path) -> None:
    assert power_mode(tmp_path) is None
    write(tmp_path, {"var/lib/nvpmodel/status": "pmode:0008 fmode:quiet"})
    assert power_mode(tmp_path) == "8"
    assert look(root=tmp_path) == Gpu(power_mode="8")


def test_nvidia_smi_that_is_absent_or_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_nvidia_smi() is None
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nexit 9\n")
    os.chmod(program, 0o755)
    assert ask_nvidia_smi() is None
    program.write_text(f'#!/bin/sh\necho "{LINES.splitlines()[0]}"\n')
    assert ask_nvidia_smi() == LINES.splitlines()[0] + "\n"
