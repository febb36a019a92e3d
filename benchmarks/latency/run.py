"""Latency of our graphs and of every opponent, in paired rounds: one command, one results file.

    python benchmarks/latency/run.py [--models deit_s-2.0,...] [--batches 1,8,32] [--threads 2,1]
        [--only scatter,concat,...] [--seconds 60] [--openings 3] [--work DIR] [--out FILE]
        [--provider cpu|cuda|tensorrt]
    python benchmarks/latency/run.py --make         only make the graphs
    python benchmarks/latency/run.py --made         only measure, whatever changed since they were made
    python benchmarks/latency/run.py --bare         only check the harness against a bare loop

Graphs lie in --work and are made again only where their sources changed; groups that are in the results file
are not measured again (--again does). `report.py` writes the table.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

import machine

from latency.bare import ratios
from latency.cases import DENSE, OURS, PLAIN, Case, chosen
from latency.records import Records
from latency.sides import SideList
from latency.turns import How, describe, measure_turns
from tofe_export.bench import machine as bench_machine

BARE_CASE, BARE_BATCHES, BARE_SIDES = "deit_s-2.0", (1, 8), (DENSE, *OURS)
BARE_SECONDS = 2.0
_MINUTE = 60

Facts = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, then measure what is missing."""
    given = _options(arguments)
    cases = chosen(given.models)
    began = time.perf_counter()
    for case in [] if given.made else cases:
        _in_fresh_process(make_sides, case, given.work, given.only, given.batches)
    print(f"graphs are there after {(time.perf_counter() - began) / _MINUTE:.1f} min", flush=True)
    if given.make:
        return
    records = Records(given.out)
    for case in [] if given.bare else cases:
        for threads in given.threads:
            for batch in case.batches_of(given.batches, threads):
                openings = given.openings if batch == 1 else 1  # where memory lies shows at batch 1 alone
                how = How(given.provider, threads, given.seconds, openings)
                measure_case(case, batch, how, given, records)
    if given.bare or given.only is None:
        for case in cases:
            if case.name == BARE_CASE and given.provider == "cpu":
                check_bare(case, given, records)
    print(f"wrote {records.path} after {(time.perf_counter() - began) / _MINUTE:.1f} min")


def make_sides(case: Case, work: Path, only: list[str] | None, batches: list[int]) -> None:
    """Make the graphs of a case."""
    from latency.maker import Maker

    maker = Maker(case, SideList(work / case.name))
    for batch in (batch for batch in case.batches if batch in batches):
        for name in case.sides_at(batch, only):
            start = time.perf_counter()
            side = maker.make(name, batch)
            if (seconds := time.perf_counter() - start) > 1:
                print(
                    f"made {case.name} {name} b{batch}: {side.gmacs:.3f} GMACs, {seconds:.0f} s", flush=True
                )


def measure_case(case: Case, batch: int, how: How, given: argparse.Namespace, records: Records) -> None:
    """All sides of one case, batch and number of threads in turn."""
    listed = SideList(given.work / case.name)
    sides = {name: listed.get(name, batch) for name in case.sides_at(batch, given.only)}
    group: Facts = {
        "case": case.name,
        "batch": batch,
        "threads": how.threads,
        "provider": how.provider,
        "names": list(sides),
        "made_from": {name: side.made_from for name, side in sides.items()},
        "openings": how.openings,
    }
    if not given.again and records.find(group):
        print(f"{case.name} b{batch} {how.threads} threads: is there", flush=True)
        return
    start, before = time.perf_counter(), bench_machine.now()
    found = describe(measure_turns({name: listed.path(side) for name, side in sides.items()}, how))
    for name, side in sides.items():
        found["sides"][name] |= {"gmacs": side.gmacs, "setting": dict(side.setting)}
    load = {"load_before": before["load_average"][0], "load_after": bench_machine.now()["load_average"][0]}
    records.add(group | found | load | {"seconds": round(time.perf_counter() - start, 1)})
    _say(group, found)


def check_bare(case: Case, given: argparse.Namespace, records: Records) -> None:
    """Plain against ours in a bare loop, each in its own process."""
    listed, threads = SideList(given.work / case.name), given.threads[0]
    for batch in (batch for batch in BARE_BATCHES if batch in given.batches):
        files = {name: listed.path(listed.get(name, batch)) for name in (PLAIN, *BARE_SIDES)}
        rows = []
        for name, found in ratios(files.pop(PLAIN), files, threads, BARE_SECONDS).items():
            rows.append({"case": case.name, "batch": batch, "side": name, "threads": threads, **found})
            print(f"bare loop {case.name} b{batch} {name}: {found['ratio']:.3f} times plain", flush=True)
        records.add_bare(rows)


def _say(group: Facts, found: Facts) -> None:
    noise = found["noise"]["value"]
    print(f"{group['case']} b{group['batch']} {group['threads']} threads, A/A {noise:.3f}:", flush=True)
    for name, side in found["sides"].items():
        ratios = side["as_fast_as"]
        plain, dense = (ratios.get(key, {}).get("value", 1.0) for key in (PLAIN, DENSE))
        milliseconds = side["latency"]["median_ms"]
        gmacs = f"{side['gmacs']:7.3f} GMACs" if "gmacs" in side else " " * 13
        print(
            f"  {name:16} {gmacs} {milliseconds:9.2f} ms  {plain:6.3f} plain  {dense:6.3f} dense", flush=True
        )


def _in_fresh_process(task: Any, *arguments: Any) -> None:  # noqa: ANN401 - any task
    """Run a task where its memory ends with it, and where its threads disturb no measurement."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(task, *arguments).result()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return [name.strip() for name in text.split(",") if name.strip()]

    def numbers(text: str) -> list[int]:
        return [int(name) for name in names(text)]

    parser = argparse.ArgumentParser(description="Latency of our graphs and of every opponent.")
    parser.add_argument("--models", type=names, default=[""], help="cases, or how their names begin")
    parser.add_argument("--batches", type=numbers, default=[1, 8, 32])
    parser.add_argument("--threads", type=numbers, default=[2, 1])
    parser.add_argument("--only", type=names, help="sides beside plain and dense")
    parser.add_argument("--seconds", type=float, default=60.0, help="about, per group")
    parser.add_argument("--openings", type=int, default=3, help="of all sessions, at batch 1")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tofe_latency")
    parser.add_argument("--out", type=Path, default=machine.RESULTS / "latency.json")
    parser.add_argument("--provider", choices=("cpu", "cuda", "tensorrt"), default="cpu")
    parser.add_argument("--make", action="store_true", help="only make the graphs")
    parser.add_argument("--made", action="store_true", help="measure the graphs as they were made last")
    parser.add_argument("--bare", action="store_true", help="only check against a bare loop")
    parser.add_argument("--again", action="store_true", help="measure what was measured already too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
