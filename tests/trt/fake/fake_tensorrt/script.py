"""What a fake TensorRT is told to do wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

# lines as TensorRT 8.6 to 10.x print them when memory is short (NVIDIA/TensorRT issues 1901, 2838)
OUT_OF_MEMORY = [
    "Requested amount of GPU memory (8589934592 bytes) could not be allocated. There may not be enough free "
    "memory for allocation to succeed.",
    "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)",
    "Error Code 10: Internal Error (Could not find any implementation for node "
    "{ForeignNode[blocks.0/MatMul...blocks.1/Add]}.)",
]


@dataclass
class Script:
    """Faults, none by default."""

    parser_error: str = ""  # the parser refuses its first node with these words
    build_errors: list[str] = field(default_factory=list)  # the builder logs them and gives None
    ignore_precision: bool = False  # FP16 is set, and the engine computes in float32
    interrupt: bool = False  # Ctrl-C arrives while the builder is at work
    refuse_plan: list[str] = field(default_factory=list)  # deserializing logs them and gives None
    no_context: list[str] = field(default_factory=list)  # likewise the execution context
    run_errors: list[str] = field(default_factory=list)  # likewise running
    capture_errors: list[str] = field(default_factory=list)  # likewise running while a graph is recorded
    shape_errors: list[str] = field(default_factory=list)  # an input's shape is refused, and forgotten
    gain: float = 1.0  # the first output comes out times this
    not_finite: bool = False  # the first output holds NaN

    def spoil(self, outputs: list[npt.NDArray[Any]]) -> None:
        """Change the first output as told."""
        first = outputs[0]
        if self.gain != 1.0:
            outputs[0] = (first * self.gain).astype(first.dtype)
        if self.not_finite:
            outputs[0] = np.full_like(first, np.nan)
