"""What INT8 calibration takes if nothing is said; without imports, so that `--help` answers at once."""

from __future__ import annotations

from typing import Literal

Method = Literal["max", "entropy", "percentile"]
METHODS: tuple[Method, ...] = ("max", "entropy", "percentile")
MIN_AGREEMENT = 0.99
"""Of an INT8 graph's answers with its float32 twin's, on held-out pictures."""
