"""`bench` twice in a row: how far apart are the ratios that it prints?

    python benchmarks/latency/repeat.py BUNDLE [--threads 2] [--batches 1,8] [--seconds 10] [--out FILE]

For example the bundle `unseen` that `advise_check.py` leaves in its --work. Both runs are the command that
users have, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

import machine

WITHIN = 0.03

Facts = Mapping[str, Any]


def main() -> None:
    """Run, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--seconds", default="10", help="per comparison")
    parser.add_argument("--out", type=Path, help="the result; default: results/bench_repeat.json")
    options = parser.parse_args()
    rows = []
    for batch in options.batches.split(","):
        first, second = (bench(options, batch) for _ in range(2))
        rows += compare(first, second, int(batch))
    print(report(rows))
    figures = {"within": WITHIN, "threads": int(options.threads), "worst": worst(rows), "rows": rows}
    if options.out:
        options.out.write_text(json.dumps({"machine": machine.facts(), **figures}, indent=1) + "\n")
    else:
        print("wrote", machine.write("bench_repeat", figures))


def bench(options: argparse.Namespace, batch: str) -> Facts:
    """One run. Raises SystemExit where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found.json"
        line = ["bench", options.bundle, "--json", found, "--batch", batch]
        line += ["--threads", options.threads, "--seconds", options.seconds]
        if subprocess.call([sys.executable, "-m", "tofe_export.cli", *map(str, line)]):
            raise SystemExit(f"failed: tofe-export {' '.join(map(str, line))}")
        facts: Facts = json.loads(found.read_text())
        return facts


def compare(first: Facts, second: Facts, batch: int) -> list[dict[str, Any]]:
    """A row per variant: its ratio to dense in both runs, and how far the second is from the first.

    Raises SystemExit where the runs measured different variants.
    """
    runs = [{c["variant"]["name"]: c for c in run["comparisons"]} for run in (first, second)]
    if runs[0].keys() != runs[1].keys():
        raise SystemExit(f"expected the same variants twice, found {[*runs[0]]} and {[*runs[1]]}")
    rows = []
    for name, one in runs[0].items():
        ratios = [run["speedup"]["value"] for run in (one, runs[1][name])]
        noise = [run["noise"]["value"] for run in (one, runs[1][name])]
        row = {"variant": name, "batch": batch, "ratios": ratios, "noise": noise}
        rows.append(row | {"apart": ratios[1] / ratios[0] - 1})
    return rows


def worst(rows: Sequence[Facts]) -> float:
    """The largest distance of two runs."""
    return max(abs(float(row["apart"])) for row in rows)


def report(rows: Sequence[Facts]) -> str:
    """A line per variant, and the worst."""
    lines = [
        f"{row['variant']:32} batch {row['batch']}: {row['ratios'][0]:.3f} and {row['ratios'][1]:.3f} times "
        f"dense ({row['apart']:+.1%})"
        for row in rows
    ]
    verdict = "within" if worst(rows) <= WITHIN else "NOT within"
    return "\n".join([*lines, f"worst: {worst(rows):.1%}, {verdict} {WITHIN:.0%}"])


if __name__ == "__main__":
    main()
