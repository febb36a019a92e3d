"""Latency over the number of kept tokens, one by one: do multiples of something cost less per token?

    python benchmarks/latency/alignment.py [--batches 1,8] [--threads 2] [--seconds 11,35] [--pieces 4]
        [--work DIR] [--made] [--make] [--out FILE] [--figure FILE.svg]

DeiT-S, concat, the same K in every stage. At batch 1 every K from 8 to 196; at larger batches every fourth,
and each one from 36 to 72. Groups of twelve drawn at random take turns with the dense model, twice, and every
time is taken relative to that; what then is common to a group, its distance from a smooth curve through all K
(a polynomial of degree 4), is taken off as well, since a machine's drift must not look like a period. What a
multiple saves is the median distance of its K from that curve. `--align`
rounds K; the matrices have one row more, the CLS token, so both are asked. --pieces limits how many groups
are measured now; groups that are in the results file are not measured again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

import machine

from latency.ablation import Facts, Recipe, Workshop, is_there, take_turns
from latency.cases import CASES, DENSE
from latency.records import Records
from latency.turns import How

KIND = "tofe-export alignment 1"
CASE, LOWERING, MOST = "deit_s-2.0", "concat", 196
MULTIPLES = (1, 4, 6, 8, 12, 16)
TOGETHER, SEED, DEGREE = 12, 0, 4
_OF_A_MEDIAN = 1.2533 * 1.4826
"""Standard error of a median of n normal values, times sqrt n, in median deviations."""
PAYS = 0.01
"""A multiple must save this much to be worth tokens."""
FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "alignment.svg"

Numbers = npt.NDArray[np.float64]


def counts_of(batch: int) -> list[int]:
    """The K that are measured at a batch."""
    if batch == 1:
        return list(range(8, MOST + 1))
    return sorted({*range(8, MOST + 1, 4), *range(36, 73)})


def groups_of(batch: int) -> list[list[int]]:
    """The K in groups that take turns, drawn at random."""
    drawn = np.random.default_rng(SEED).permutation(counts_of(batch)).tolist()
    return [drawn[start : start + TOGETHER] for start in range(0, len(drawn), TOGETHER)]


@dataclass(frozen=True)
class Point:
    """One K: its share of the dense latency, with the 95 % interval; None where too few rounds were alike."""

    keep: int
    share: float
    low: float | None
    high: float | None
    group: int = 0
    """Those measured together have the same number."""

    def scaled(self, factor: float) -> Point:
        """The same point by another yardstick."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return replace(self, share=self.share * factor, low=low, high=high)


def curve_of(groups: Sequence[Facts], batch: int, threads: int) -> list[Point]:
    """All points that were measured."""
    points = [
        Point(int(name.removeprefix("K ")), 1 / ratio["value"], *_interval(ratio), number)
        for number, group in enumerate(groups)
        if group["batch"] == batch and group["threads"] == threads
        for name, ratio in group["as_fast_as_dense"].items()
    ]
    return sorted(points, key=lambda point: point.keep)


def levelled(curve: Sequence[Point]) -> list[Point]:
    """The curve without what is common to a group: each group's median distance from the smooth curve."""
    keep, shares, groups = (
        np.array(x) for x in zip(*((p.keep, p.share, p.group) for p in curve), strict=True)
    )
    distance = shares / _smooth(keep, shares)
    levels = {number: float(np.median(distance[groups == number])) for number in set(groups.tolist())}
    return [point.scaled(1 / levels[point.group]) for point in curve]


def _smooth(keep: Numbers, shares: Numbers) -> Numbers:
    smooth: Numbers = np.polynomial.Polynomial.fit(keep, shares, DEGREE)(keep)
    return smooth


def _interval(ratio: Facts) -> tuple[float | None, float | None]:
    return (1 / ratio["high"], 1 / ratio["low"]) if ratio["low"] > 0 else (None, None)


def savings(curve: Sequence[Point], extra: int) -> dict[int, dict[str, float]]:
    """For each multiple m, how far below the smooth curve the K lie for which m divides K + `extra`.

    `saved` is the median, `error` its standard error from the median deviation, so that single disturbed
    sessions do not count; multiples that fewer than three K meet are left out.
    """
    keep = np.array([point.keep for point in curve], np.float64)
    shares = np.array([point.share for point in curve])
    below: Numbers = 1 - shares / _smooth(keep, shares)
    found = {}
    for multiple in MULTIPLES:
        mine = below[(keep + extra) % multiple == 0]
        if len(mine) >= 3:
            saved = float(np.median(mine))
            spread = float(np.median(np.abs(mine - saved)))
            error = _OF_A_MEDIAN * spread / len(mine) ** 0.5
            found[multiple] = {"saved": saved, "error": error, "counts": len(mine)}
    return found


def default_align(saved: dict[int, dict[str, float]]) -> int:
    """The multiple that saves most, of those whose 95 % interval lies above PAYS; 1 where there is none.

    Of several within PAYS of the best, the smallest: a large multiple gives away more tokens.
    """
    worth = {m: found["saved"] for m, found in saved.items() if found["saved"] - 2 * found["error"] > PAYS}
    best = max(worth.values(), default=0.0)
    return min((m for m, share in worth.items() if m > 1 and share > best - PAYS), default=1)


def summary(groups: Sequence[Facts], batch: int, threads: int) -> Facts | None:
    """The curve of a batch, and what follows from it; None before it is complete."""
    curve = curve_of(groups, batch, threads)
    if [point.keep for point in curve] != counts_of(batch):
        return None
    curve = levelled(curve)
    dense = [g["sides"][DENSE]["latency"]["median_ms"] for g in groups if g["batch"] == batch]
    counts, rows = savings(curve, 0), savings(curve, 1)
    return {
        "batch": batch,
        "threads": threads,
        "dense_ms": float(np.median(dense)),
        "curve": [vars(point) for point in curve],
        "saved_at_multiples_of": {"K": counts, "K + 1": rows},
        "align": default_align(counts),
    }


def table(found: Facts) -> str:
    """A line per multiple."""
    lines = [f"batch {found['batch']}, {found['threads']} threads, dense {found['dense_ms']:.1f} ms"]
    for asked, saved in found["saved_at_multiples_of"].items():
        lines += [
            f"  {asked} a multiple of {multiple:2}: {100 * item['saved']:+.2f} % saved "
            f"(standard error {100 * item['error']:.2f}, {item['counts']} counts)"
            for multiple, item in saved.items()
        ]
    return "\n".join([*lines, f"  --align should be {found['align']}"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Make and measure what is missing, at most --pieces groups of it; then the table and the figure."""
    given = _options(arguments)
    (case,) = (case for case in CASES if case.name == CASE)
    workshop = Workshop(case, given.work / "alignment")
    if not given.made:
        for batch in given.batches:
            make(workshop, batch)
    if given.make:
        return
    records = Records(given.out)
    records.data["kind"] = KIND
    left = given.pieces
    for number, batch in enumerate(given.batches):
        how = How("cpu", given.threads, given.seconds[min(number, len(given.seconds) - 1)])
        for group in groups_of(batch):
            if left and measure_group(workshop, batch, group, how, records, given.again):
                left -= 1
    curves = [found for batch in given.batches if (found := _summed(records, batch, given.threads))]
    for found in curves:
        print(table(found))
    if given.figure and curves:
        from latency.figures import draw_alignment

        draw_alignment(curves, given.figure)
        print("drew", given.figure)


def make(workshop: Workshop, batch: int) -> None:
    """Make the dense graph and one per K."""
    workshop.make(Recipe("all"), DENSE, batch)
    for keep in counts_of(batch):
        workshop.make(Recipe(f"K {keep}"), LOWERING, batch, (keep,) * len(workshop.keep))
    print(f"{len(counts_of(batch))} graphs of batch {batch} are there", flush=True)


def measure_group(
    workshop: Workshop, batch: int, keeps: Sequence[int], how: How, records: Records, again: bool
) -> bool:
    """Measure a dozen graphs and the dense one in turn; False where that was done before."""
    names = {DENSE: f"{DENSE} all"} | {f"K {keep}": f"{LOWERING} K {keep}" for keep in keeps}
    sides = {name: workshop.sides.get(side, batch) for name, side in names.items()}
    group: Facts = {
        "case": f"{CASE} alignment",
        "batch": batch,
        "threads": how.threads,
        "provider": how.provider,
        "names": list(sides),
        "made_from": sorted({side.made_from for side in sides.values()}),
    }
    if not again and is_there(records, group):
        return False
    turns = take_turns({name: workshop.path(side) for name, side in sides.items()}, DENSE, how)
    ratios: Facts = {name: turns.ratio(DENSE, name) for name in names if name != DENSE}
    record = group | {
        "noise": turns.noise_json(),
        "as_fast_as_dense": ratios,
        "sides": turns.sides(),
        "times_ms": turns.times_json(),
    }
    records.add(record)
    print(f"b{batch} {sorted(keeps)}: A/A {turns.noise.value:.3f}", flush=True)
    return True


def _summed(records: Records, batch: int, threads: int) -> Facts | None:
    """The summary, kept in the results file as well."""
    found = summary(records.data["groups"], batch, threads)
    if found:
        others = [c for c in records.data.get("curves", []) if (c["batch"], c["threads"]) != (batch, threads)]
        records.data["curves"] = [*others, found]
        records.add(records.data["groups"][-1])
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    def seconds(text: str) -> list[float]:
        return [float(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description="Latency over the number of kept tokens.")
    parser.add_argument("--batches", type=numbers, default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=seconds, default=[11.0, 35.0], help="about, per group, by batch")
    parser.add_argument("--pieces", type=int, default=10**6, help="groups to measure now")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tofe_rewrites")
    parser.add_argument("--out", type=Path, default=machine.RESULTS / "alignment.json")
    parser.add_argument("--figure", type=Path, help=f"draw the curves, for example as {FIGURE.name}")
    parser.add_argument("--make", action="store_true", help="only make the graphs")
    parser.add_argument("--made", action="store_true", help="measure the graphs as they were made last")
    parser.add_argument("--again", action="store_true", help="measure what was measured already too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
