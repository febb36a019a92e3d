"""A bare loop over one graph: nothing of tofe-export, only onnxruntime, to check our harness against.

    python benchmarks/latency/bare.py FILE.onnx --threads 2 --seconds 4

Prints one line of JSON: runs, median_ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WARMUP = 3


def loop(file: Path, threads: int, seconds: float, provider: str = "CPUExecutionProvider") -> list[float]:
    """Seconds of each run after the warm-up; at least 5 runs."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(file), options, providers=[provider])
    given = session.get_inputs()[0]
    feeds = {given.name: np.random.RandomState(0).standard_normal(given.shape).astype(np.float32)}
    for _ in range(WARMUP):
        session.run(None, feeds)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        session.run(None, feeds)
        times.append(time.perf_counter() - start)
    return times


def ratios(
    reference: Path, candidates: Mapping[str, Path], threads: int, seconds: float, repeats: int = 3
) -> dict[str, dict[str, Any]]:
    """How many times as fast as the reference each candidate is, every run in a process of its own.

    Per repeat the reference and all candidates run once, one after the other; the figure is the median over
    the repeats, with the least and the largest beside it.
    """
    slow: list[float] = []
    fast: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        slow.append(_in_process(reference, threads, seconds))
        for name, file in candidates.items():
            fast[name].append(_in_process(file, threads, seconds))
    found = {}
    for name, times in fast.items():
        each = [before / after for before, after in zip(slow, times, strict=True)]
        found[name] = {
            "reference_ms": statistics.median(slow),
            "candidate_ms": statistics.median(times),
            "ratio": statistics.median(each),
            "least": min(each),
            "largest": max(each),
        }
    return found


def _in_process(file: Path, threads: int, seconds: float) -> float:
    line = [sys.executable, __file__, str(file), "--threads", str(threads), "--seconds", str(seconds)]
    done = subprocess.run(line, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout)["median_ms"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one file."""
    parser = argparse.ArgumentParser(description="A bare loop over one graph.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args(arguments)
    times = loop(given.file, given.threads, given.seconds)
    print(json.dumps({"runs": len(times), "median_ms": statistics.median(times) * 1e3}))


if __name__ == "__main__":
    main()
