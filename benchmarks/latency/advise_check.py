"""Does `advise` predict latencies that it has not seen? A ladder's table, against `bench` of other variants.

    python benchmarks/latency/advise_check.py --work DIR [--threads 2] [--batches 1,8] [--out FILE]

All by the commands that users have: `advise --ladder` and `bench --table` make the table, `init`, `onnx` and
`bench --json` the truth, on variants whose stages keep different counts (the ladder's are all equal): the
paper's profile at six budgets, and three profiles that nobody would train, to see the model of the predictor
strained. What lies in --work is not made or measured again, so the command may be stopped and started.

Two figures per variant: the predicted share of the dense latency against the measured one (both come from
paired rounds), and the predicted milliseconds against the measured ones, which any drift of the machine
between the two runs spoils as well: `dense_drift` says by how much the dense model's latency differs between
them, and where that is much, the milliseconds say nothing about the predictor.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

import machine

from tofe_export.latency.predict import Predictor
from tofe_export.latency.table import Entry, Table, find_entries

BUDGETS = "1.6,2.0,2.3,2.6,3.2,3.8"
STRANGE = ("30,40,80", "120,120,30", "60,15,60")
WITHIN = 0.10


def main() -> None:
    """Make and measure what is missing, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="where graphs and figures lie")
    parser.add_argument("--model", default="deit_small_patch16_224")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--seconds", default="4", help="per comparison, in `bench`")
    parser.add_argument("--out", type=Path, help="the result; default: results/latency_advise.json")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    batches = [int(batch) for batch in options.batches.split(",")]
    make(options.work, options.model, options.batches)
    measure(options.work, batches, options.threads, options.seconds)
    rows = [row for batch in batches for row in compare(options.work, batch)]
    print(report(rows))
    print("wrote", write(rows, options.work, options.out))


def make(work: Path, model: str, batches: str) -> None:
    """The ladder, and a bundle of variants that are not in it."""
    if not (work / "ladder").exists():
        tofe("advise", "--model", model, "--batch", batches, "--ladder", work / "ladder")
    if not (work / "model.pt").exists():
        tofe("init", "--model", model, "--out", work / "model.pt")
    if not (work / "unseen").exists():
        export = ("onnx", "--ckpt", work / "model.pt", "--precision", "fp32", "--batch", batches)
        for what in (("--budget", BUDGETS), *(("--keep", keep) for keep in STRANGE)):
            tofe(*export, *what, "--out", work / "unseen")


def measure(work: Path, batches: Sequence[int], threads: str, seconds: str) -> None:
    """Table and truth of each batch in turn, so that they are near one another in time."""
    for batch in batches:
        common = ("--threads", threads, "--batch", str(batch))
        if not (table := table_of(work, batch)).exists():
            tofe("bench", work / "ladder", "--table", table, *common)
        if not (truth := truth_of(work, batch)).exists():
            tofe("bench", work / "unseen", "--json", truth, "--seconds", seconds, *common)


def compare(work: Path, batch: int) -> list[dict[str, Any]]:
    """One row per variant: predicted and measured."""
    path = table_of(work, batch)
    (entry,) = find_entries(Table.load(path).entries, path, batches=[batch])
    comparisons = json.loads(truth_of(work, batch).read_text())["comparisons"]
    return [row_of(entry, comparison) for comparison in comparisons]


def row_of(entry: Entry, comparison: dict[str, Any]) -> dict[str, Any]:
    """Errors are predicted / measured - 1: positive, where the prediction is too slow."""
    variant, predictor = comparison["variant"], Predictor(entry)
    share, ms = predictor.share(variant["keep"]), predictor.ms(variant["keep"])
    measured_ms = variant["latency"]["median_ms"]
    return {
        "variant": variant["name"],
        "keep": variant["keep"],
        "batch": entry.batch,
        "speedup_predicted": 1 / share,
        "speedup_measured": comparison["speedup"]["value"],
        "interval": [comparison["speedup"]["low"], comparison["speedup"]["high"]],
        "ms_predicted": ms,
        "ms_measured": measured_ms,
        "error": share * comparison["speedup"]["value"] - 1,
        "error_ms": ms / measured_ms - 1,
        "dense_drift": comparison["against"]["latency"]["median_ms"] / entry.dense_ms - 1,
        "noise": comparison["noise"]["value"],
        "table_noise": entry.noise,
    }


def report(rows: Sequence[dict[str, Any]]) -> str:
    """A line per variant, and the worst."""
    lines = [
        f"{row['variant']:32} {'/'.join(map(str, row['keep'])):12} predicted {row['speedup_predicted']:.3f} "
        f"measured {row['speedup_measured']:.3f} ({row['error']:+.1%}); {row['ms_predicted']:.2f} ms, "
        f"{row['ms_measured']:.2f} ms ({row['error_ms']:+.1%})"
        for row in rows
    ]
    worst, worst_ms = (max(abs(row[key]) for row in rows) for key in ("error", "error_ms"))
    drift = max(abs(row["dense_drift"]) for row in rows)
    verdict = "within" if max(worst, worst_ms) <= WITHIN else "NOT within"
    lines.append(
        f"worst: {worst:.1%} of the speed-up, {worst_ms:.1%} of the latency: {verdict} {WITHIN:.0%}; the "
        f"dense model drifted by up to {drift:.1%} between the runs"
    )
    return "\n".join(lines)


def write(rows: Sequence[dict[str, Any]], work: Path, out: Path | None) -> Path:
    """The result with the machine's facts, beside those of the other benchmarks unless said otherwise."""
    tables = [Table.load(table_of(work, batch)) for batch in sorted({row["batch"] for row in rows})]
    figures = {
        "model": tables[0].backbone,
        "settings": tables[0].settings,
        "within": WITHIN,
        "worst_error": max(abs(row["error"]) for row in rows),
        "worst_error_ms": max(abs(row["error_ms"]) for row in rows),
        "rows": list(rows),
        "ladder": [vars(step) | {"batch": e.batch} for t in tables for e in t.entries for step in e.steps],
    }
    if out is None:
        return machine.write("latency_advise", figures)
    out.write_text(json.dumps({"machine": machine.facts(), **figures}, indent=1) + "\n")
    return out


def table_of(work: Path, batch: int) -> Path:
    """Where the ladder's latencies lie."""
    return work / f"table-b{batch}.json"


def truth_of(work: Path, batch: int) -> Path:
    """Where `bench` left the other variants' latencies."""
    return work / f"truth-b{batch}.json"


def tofe(*arguments: object) -> None:
    """Run the tool. Raises SystemExit where it fails."""
    line = [sys.executable, "-m", "tofe_export.cli", *map(str, arguments)]
    if subprocess.call(line):
        raise SystemExit(f"failed: tofe-export {' '.join(line[3:])}")


if __name__ == "__main__":
    main()
