"""Where halving the tokens beats the dense model, and where it beats a smaller model of no more MACs.

    python benchmarks/latency/crossover.py [--sizes 128,224,...] [--batches 1,2,4,8] [--threads 2]
        [--seconds 12] [--work DIR] [--made] [--make] [--out FILE] [--figure FILE.svg]

DeiT-S with ToFe (concat) at the share of the dense cost that 2.0 of 4.6 GMACs are, over the number of patch
tokens (the image's size) and the batch. Against it: the dense model, and what people would do instead, each
as large as fits into ToFe's executed MACs: the dense model at a lower resolution, its first blocks, and
DeiT-Ti at the same resolution, which is far cheaper. All our own exports. Runs of more than 3200 tokens are
left out. This is latency alone: what a smaller model's answers are worth is another matter.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

import machine

from latency.ablation import Facts, Turns, in_words, is_there, take_turns
from latency.cases import DENSE, TINY, Case
from latency.models import drawn
from latency.records import Records
from latency.sides import Side, SideList
from latency.turns import How
from tofe_export.budget import Cost, dense_macs, gmacs, macs_executed
from tofe_export.keep import solve

KIND = "tofe-export crossover 1"
OURS, SHARE, PATCH = "concat", 2.0 / 4.6, 16
SIZES, BATCHES, MOST_TOKENS = (128, 224, 320, 448, 592), (1, 2, 4, 8), 3200
MODEL = "deit_small_patch16_224"
FIGURE = Path(__file__).parents[2] / "docs" / "figures" / "crossover.svg"


def case_of(size: int) -> Case:
    """The case of an image size, its budget and its opponents solved from the model's own cost."""
    bare = Case(f"crossover-{size}", MODEL, 0.0, size)
    cost = drawn(bare).model.cost()
    budget = SHARE * gmacs(dense_macs(cost))
    most = macs_executed(cost, solve(cost, budget).keep, OURS)
    rivals = (f"{fitting_size(cost, most)} px", f"{fitting_depth(cost, most)} blocks", TINY)
    return replace(bare, budget_gmacs=budget, sides=(DENSE, OURS, *rivals))


def fitting_size(cost: Cost, most: int) -> int:
    """The largest image whose dense model executes at most `most` MACs."""

    def executed(side: int) -> int:
        stem = cost.stem_macs * side**2 // cost.tokens
        return macs_executed(replace(cost, tokens=side**2, stem_macs=stem), (), DENSE)

    side = 1
    while executed(side + 1) <= most:
        side += 1
    return side * PATCH


def fitting_depth(cost: Cost, most: int) -> int:
    """How many of the first blocks execute at most `most` MACs."""
    return max(
        depth
        for depth in range(1, cost.depth)
        if macs_executed(replace(cost, depth=depth, locations=(0,)), (), DENSE) <= most
    )


def batches_of(size: int, wanted: Sequence[int]) -> list[int]:
    """The batches that are measured at an image size."""
    return [batch for batch in wanted if batch * (size // PATCH) ** 2 <= MOST_TOKENS]


def make(size: int, batches: Sequence[int], work: Path) -> None:
    """Make the graphs of an image size."""
    from latency.maker import Maker

    case = case_of(size)
    maker = Maker(case, SideList(work / case.name))
    for batch in batches_of(size, batches):
        for name in case.sides:
            maker.make(name, batch)
    print(f"{case.name}: {', '.join(case.sides)} are there", flush=True)


def sides_of(listed: SideList, batch: int) -> list[Side]:
    """The graphs of a batch, as they were made last; the opponents' names follow from the image size."""
    made = json.loads((listed.folder / "sides.json").read_text(encoding="utf-8"))
    return [listed.get(side["name"], batch) for side in made if side["batch"] == batch]


def measure_cell(listed: SideList, size: int, batch: int, how: How, records: Records, again: bool) -> None:
    """One cell of the map: all sides in turn."""
    sides = sides_of(listed, batch)
    group: Facts = {
        "case": f"crossover-{size}",
        "batch": batch,
        "threads": how.threads,
        "provider": how.provider,
        "names": [side.name for side in sides],
        "made_from": sorted({side.made_from for side in sides}),
    }
    if not again and is_there(records, group):
        return
    turns = take_turns({side.name: listed.path(side) for side in sides}, DENSE, how)
    record = group | {"tokens": (size // PATCH) ** 2, "noise": turns.noise_json()} | _facts(turns, sides)
    records.add(record)
    print(table(record), flush=True)


def _facts(turns: Turns, sides: Sequence[Side]) -> Facts:
    found = turns.sides()
    for side in sides:
        found[side.name] |= {"gmacs": side.gmacs}
    rows = {side.name: turns.ratio(side.name, OURS) for side in sides if side.name != OURS}
    return {"ours_as_fast_as": rows, "sides": found, "times_ms": turns.times_json()}


def table(record: Facts) -> str:
    """A line per opponent: how much faster ToFe is."""
    ours = record["sides"][OURS]
    lines = [
        f"{record['tokens']} tokens, batch {record['batch']}, A/A {record['noise']['value']:.3f}: ToFe "
        f"{ours['latency']['median_ms']:.2f} ms, {ours['gmacs']:.2f} GMACs"
    ]
    for name, ratio in record["ours_as_fast_as"].items():
        side = record["sides"][name]
        lines.append(
            f"  {name:12} {side['latency']['median_ms']:8.2f} ms {side['gmacs']:6.2f} GMACs: "
            f"{ratio['value']:.3f}, {in_words(ratio)}, {ratio['verdict']}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make and measure what is missing, then draw the map."""
    given = _options(arguments)
    for size in [] if given.made else given.sizes:
        make(size, given.batches, given.work)
    if given.make:
        return
    records = Records(given.out)
    records.data["kind"] = KIND
    how = How("cpu", given.threads, given.seconds)
    for size in given.sizes:
        listed = SideList(given.work / f"crossover-{size}")
        for batch in batches_of(size, given.batches):
            measure_cell(listed, size, batch, how, records, given.again)
    if given.figure:
        from latency.figures import draw_crossover

        draw_crossover(records.data["groups"], given.figure)
        print("drew", given.figure)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description="Where ToFe beats the dense model and smaller ones.")
    parser.add_argument("--sizes", type=numbers, default=list(SIZES))
    parser.add_argument("--batches", type=numbers, default=list(BATCHES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=12.0, help="about, per cell")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tofe_crossover")
    parser.add_argument("--out", type=Path, default=machine.RESULTS / "crossover.json")
    parser.add_argument("--figure", type=Path, help=f"draw the map, for example as {FIGURE.name}")
    parser.add_argument("--make", action="store_true", help="only make the graphs")
    parser.add_argument("--made", action="store_true", help="measure the graphs as they were made last")
    parser.add_argument("--again", action="store_true", help="measure what was measured already too")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
