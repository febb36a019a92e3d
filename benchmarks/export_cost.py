"""What an export costs: one budget against four, time, peak memory and bundle size, each in a fresh process.

python benchmarks/export_cost.py [--model deit_small_patch16_224]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

CASES = {"one budget": "2.0", "four budgets": "1.6,2.0,2.6,3.2"}


def run(arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak GiB of one command in its own process."""
    script = (
        "import json, resource, subprocess, sys;"
        "status = subprocess.call([sys.executable, '-m', 'tofe_export.cli', '--quiet', *sys.argv[1:]],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
        "print(json.dumps([status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20]))"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True
    )
    status, peak = json.loads(done.stdout)
    if status:
        raise SystemExit(f"tofe-export {' '.join(arguments)} failed with exit code {status}")
    return time.perf_counter() - started, peak


def main() -> None:
    """Measure both cases and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_small_patch16_224")
    model = parser.parse_args().model
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = str(Path(folder) / "model.pt")
        run(["init", "--model", model, "--out", checkpoint])
        for label, budgets in CASES.items():
            bundle = Path(folder) / label.replace(" ", "_")
            seconds, peak = run(
                [
                    "onnx",
                    "--precision",
                    "fp32",
                    "--ckpt",
                    checkpoint,
                    "--budget",
                    budgets,
                    "--out",
                    str(bundle),
                ]
            )
            size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
            figures[label] = {
                "budgets": budgets,
                "seconds": round(seconds, 1),
                "peak_gib": round(peak, 2),
                "bytes": size,
            }
            print(f"{label:14} {seconds:6.1f} s  {peak:5.2f} GiB  {size / 2**20:7.1f} MiB", flush=True)
    ratio = figures["four budgets"]["bytes"] / figures["one budget"]["bytes"]
    print(f"bundle of four budgets / bundle of one: {ratio:.3f}")
    print(
        "wrote",
        machine.write("export_cost", {"model": model, "cases": figures, "size_ratio": round(ratio, 4)}),
    )


if __name__ == "__main__":
    main()
