"""The device that builds and runs engines: GPU, driver, and on a Jetson its board and release.

An engine belongs to one of these. TensorRT checks the compute capability alone, and only when it loads; the
facts here go into the sidecar, so that an engine from elsewhere is refused with a reason before anything is
loaded.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_export.fields import Fields
from tofe_export.trt.jetson import board_name, jetpack, l4t_release

if TYPE_CHECKING:
    from tofe_export.runtime.cuda import Cuda

DRIVER_FILE = Path("/proc/driver/nvidia/version")
_NOISE = ("nvidia", "geforce", "engineering", "reference", "developer", "kit", "corporation")


@dataclass(frozen=True)
class Device:
    """One GPU and what drives it."""

    gpu: str  # CUDA's name: "NVIDIA L4", "Orin"
    compute_capability: str  # "8.7"
    memory_bytes: int  # all of it; shared with the processor on a Jetson
    cuda_runtime: str  # of the library in use: "12.6"
    cuda_driver: str  # the newest CUDA that the driver knows: "12.6"
    driver: str | None  # "560.35.03", where the system says it
    board: str | None  # Jetson only
    l4t: str | None  # Jetson only: "36.4.3"

    @property
    def name(self) -> str:
        """What tells this model from others: the board on a Jetson, else the GPU."""
        return self.board or self.gpu

    @property
    def slug(self) -> str:
        """The name as a part of a file name: "jetson-orin-nano", "l4", "rtx-4090"."""
        words = [word for word in re.split(r"[^a-z0-9]+", self.name.lower()) if word not in (*_NOISE, "")]
        return "-".join(words) or "gpu"

    def same_kind(self, other: Device) -> bool:
        """Whether an engine of one can run on the other; a container may hide the board's name."""
        boards_agree = self.board == other.board or None in (self.board, other.board)
        here, there = (self.gpu, self.compute_capability), (other.gpu, other.compute_capability)
        return here == there and boards_agree

    def describe(self) -> str:
        """One line for people."""
        parts = [f"{self.name} (compute capability {self.compute_capability})", f"CUDA {self.cuda_runtime}"]
        if self.driver:
            parts.append(f"driver {self.driver}")
        if self.l4t:
            known = jetpack(self.l4t)
            parts.append(f"L4T {self.l4t}" + (f" (JetPack {known})" if known else ""))
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """What a sidecar holds."""
        return asdict(self)

    @classmethod
    def read(cls, data: Fields) -> Device:
        """Check and build. Raises ValueError."""
        device = cls(
            gpu=data.text("gpu"),
            compute_capability=data.text("compute_capability"),
            memory_bytes=data.integer("memory_bytes"),
            cuda_runtime=data.text("cuda_runtime"),
            cuda_driver=data.text("cuda_driver"),
            driver=data.optional("driver", data.text),
            board=data.optional("board", data.text),
            l4t=data.optional("l4t", data.text),
        )
        data.done()
        return device


def this_device(cuda: Cuda) -> Device:
    """The first GPU that CUDA shows. Raises MissingBackend when CUDA has none."""
    release, board = l4t_release(), board_name()
    return Device(
        gpu=cuda.device_name(),
        compute_capability=cuda.compute_capability(),
        memory_bytes=cuda.memory(),
        cuda_runtime=cuda.runtime_version(),
        cuda_driver=cuda.driver_version(),
        driver=driver_version(),
        board=board if board and (release or "jetson" in board.lower()) else None,
        l4t=release,
    )


def driver_version(file: Path = DRIVER_FILE) -> str | None:
    """The kernel driver's version, where it says so: "560.35.03"."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"\s(\d{3,}(?:\.\d+)+)\s", text)
    return found[1] if found else None
