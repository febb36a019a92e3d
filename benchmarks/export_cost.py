"""What the tool itself costs: exports, verify of 64 images, and `--help`; each in a fresh process.

    python benchmarks/export_cost.py [--model deit_small_patch16_224] [--only "ROW;ROW"]

An export is measured with one budget and with four, in float32 alone and in the default precisions (half
precision is judged by an evaluator that rounds every tensor, which costs more than writing it). `--only`
measures some of the rows and keeps the others as they are in the results.

Seconds are those of the clock; CPU seconds, of all threads, are what to compare on a machine that does other
things too. Packages are compiled once before anything is measured, as they are wherever they were installed
or used before: an environment without bytecode pays for that at every start (PYTHONDONTWRITEBYTECODE).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

ONE, FOUR = "2.0", "1.6,2.0,2.6,3.2"
EXPORTS = {
    "one budget, fp32": (ONE, "fp32"),
    "four budgets, fp32": (FOUR, "fp32"),
    "one budget, fp32 and fp16": (ONE, "fp32,fp16"),
    "four budgets, fp32 and fp16": (FOUR, "fp32,fp16"),
}
VERIFY, HELP = "verify 64 images", "help"
ROWS = (*EXPORTS, VERIFY, HELP)
IMAGES, STARTS = 64, 5

Figures = dict[str, Any]


def run(arguments: list[str]) -> Figures:
    """Seconds, CPU seconds and peak GiB of one command in its own process."""
    script = (
        "import json, resource, subprocess, sys;"
        "status = subprocess.call([sys.executable, '-m', 'tofe_export.cli', *sys.argv[1:]],"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
        "print(json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20]))"
    )
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, capture_output=True, text=True
    )
    status, cpu, peak = json.loads(done.stdout)
    if status:
        raise SystemExit(f"tofe-export {' '.join(arguments)} failed with exit code {status}")
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2), "peak_gib": round(peak, 2)}


def keep_bytecode(folder: Path) -> None:
    """Have every command that follows keep its bytecode in `folder`, and use it."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")


def compile_packages(checkpoint: Path, folder: Path) -> None:
    """Run once, unmeasured, what the rows run."""
    bundle = folder / "compiling"
    export(checkpoint, ONE, "fp32,fp16", bundle, images=1)
    run(["verify", str(bundle), "--backend", "onnxruntime"])


def export(
    checkpoint: Path, budgets: str, precisions: str, bundle: Path, images: int | None = None
) -> Figures:
    """One export, and the size of the bundle that it made."""
    more = ["--num-images", str(images)] if images else []
    line = ["--quiet", "onnx", "--precision", precisions, "--ckpt", str(checkpoint), "--budget", budgets]
    found = run([*line, "--out", str(bundle), *more])
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    return {"budgets": budgets, "precisions": precisions, **found, "bytes": size}


def verify(checkpoint: Path, bundle: Path) -> Figures:
    """Parity of all variants of one budget (both precisions, dense too) on 64 reference images."""
    export(checkpoint, ONE, "fp32,fp16", bundle, IMAGES)
    return {"images": IMAGES, "variants": 4, **run(["verify", str(bundle), "--backend", "onnxruntime"])}


def start_up() -> Figures:
    """The fastest of several starts: what the program needs, without what else the machine does."""
    return min((run(["--help"]) for _ in range(STARTS)), key=lambda found: float(found["seconds"]))


def measure(row: str, checkpoint: Path, folder: Path) -> Figures:
    """One row."""
    bundle = folder / row.replace(" ", "_").replace(",", "")
    if row == HELP:
        return start_up()
    return verify(checkpoint, bundle) if row == VERIFY else export(checkpoint, *EXPORTS[row], bundle)


def known() -> dict[str, Figures]:
    """Rows of the last result; none of results in another form."""
    path = machine.RESULTS / "export_cost.json"
    rows = json.loads(path.read_text()).get("rows", {}) if path.exists() else {}
    return {name: figures for name, figures in rows.items() if name in ROWS}


def size_ratio(rows: dict[str, Figures]) -> float | None:
    """What three more budgets add to a bundle; None until both rows were measured."""
    one, four = (rows.get(f"{count} fp32") for count in ("one budget,", "four budgets,"))
    return round(four["bytes"] / one["bytes"], 4) if one and four else None


def shown(row: str, found: Figures) -> str:
    """One row for people."""
    times = f"{found['seconds']:7.2f} s  {found['cpu_seconds']:7.2f} CPU s"
    return f"{row:28} {times}  {found['peak_gib']:5.2f} GiB"


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--only", help=f"rows, separated by semicolons: {'; '.join(ROWS)}")
    arguments = parser.parse_args()
    wanted = [name.strip() for name in arguments.only.split(";")] if arguments.only else list(ROWS)
    if unknown := set(wanted) - set(ROWS):
        parser.error(f"no rows {sorted(unknown)}")
    rows = known() if arguments.only else {}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "model.pt"
        keep_bytecode(Path(folder))
        if wanted != [HELP]:
            run(["--quiet", "init", "--model", arguments.model, "--out", str(checkpoint)])
            compile_packages(checkpoint, Path(folder))
        for row in wanted:
            rows[row] = measure(row, checkpoint, Path(folder))
            print(shown(row, rows[row]), flush=True)
    ordered = {name: rows[name] for name in ROWS if name in rows}
    ratio = size_ratio(ordered)
    print(f"bundle of four budgets / bundle of one, fp32: {ratio}")
    figures = {"model": arguments.model, "rows": ordered, "size_ratio": ratio}
    print("wrote", machine.write("export_cost", figures))


if __name__ == "__main__":
    main()
