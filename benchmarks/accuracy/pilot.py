"""Choose learning rates: every method on one grid, at the lowest budget, on a seed that is no test seed.

    python benchmarks/accuracy/pilot.py [--size small] [--jobs 1] [--methods tofe,evit]

Prints one line per run and writes `results/accuracy_pilot_SIZE.json`; what was best goes into `settings.py`
by hand. Methods with new modules are also tried with a smaller learning rate for the backbone: DynamicViT
with its authors' 0.01, ToFe with 0.1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import machine

from accuracy.run import WORK
from accuracy.settings import SIZES, Rates, Size

SEED = 100
GRID = (1e-3, 3e-3, 1e-2)
ARM_OF = {
    "tofe": "tofe",
    "dynamicvit": "dynamicvit",
    "evit": "evit",
    "tome": "tome",
    "idlevit": "idlevit",
    "control": "fewer-blocks",
}
SCALES = {"tofe": (1.0, 0.1), "dynamicvit": (1.0, 0.1, 0.01)}
Try = tuple[str, Rates]


def main() -> None:
    """Run the grid."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(ARM_OF))
    options = parser.parse_args()
    size = SIZES[options.size]
    run = partial(one, size, options.work, options.data)
    lines = []
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        for line in pool.map(run, tries(options.methods)):
            lines.append(line)
            print(line, flush=True)
            machine.write(f"accuracy_pilot_{size.name}", {"settings": size.to_json(), "runs": lines})
    path = machine.RESULTS / f"accuracy_pilot_{size.name}.json"
    print(json.dumps(best(lines), indent=1), f"\nwrote {path}")


def tries(methods: Sequence[str]) -> Iterator[Try]:
    """Every method with every rate."""
    for lr in GRID:
        for method in methods:
            yield from ((method, Rates(lr, scale)) for scale in SCALES.get(method, (1.0,)))


def one(size: Size, work: Path, data: Path | None, chosen: Try) -> dict[str, Any]:
    """Train a method at the lowest budget with the rates to try."""
    import torch

    from accuracy.results import Job
    from accuracy.run import run_job

    torch.set_num_threads(1)
    method, rates = chosen
    changed = replace(size, rates={**size.rates, method: rates})
    began = time.process_time()
    record = run_job(changed, work, data, Job(ARM_OF[method], size.budgets[:1], SEED))[0]
    return {
        "method": method,
        "lr": rates.lr,
        "backbone": rates.backbone,
        "accuracy": round(record.accuracy, 4),
        "gmacs": record.gmacs,
        "cpu_seconds": round(time.process_time() - began, 1),
        "more": record.more,
    }


def best(lines: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """The most accurate rates of each method; of equals, the lower learning rate."""
    found: dict[str, tuple[float, float]] = {}
    for line in sorted(lines, key=lambda line: (line["accuracy"], -line["lr"])):
        found[line["method"]] = line["lr"], line["backbone"]
    return found


if __name__ == "__main__":
    main()
