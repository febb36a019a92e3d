"""What each exact rewrite brings: alone, and left out of all of them.

    python benchmarks/latency/rewrites.py [--only deit_s-2.0,lvvit_s] [--lowerings dense,concat,scatter]
        [--batches 1,8] [--threads 2] [--seconds 4] [--openings 8] [--work DIR] [--made] [--make] [--out FILE]

Two figures per rewrite, since they hide each other: how much faster the graph without any becomes by this one
alone, and how much slower the graph with all of them becomes without it. Groups that are in the results file
are not measured again; --make only makes the graphs, --made measures them as they lie in --work.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

import machine

from latency.ablation import Facts, Recipe, Workshop, heading, in_words, measure_group, names, parser
from latency.candidates import OneGatherPass
from latency.cases import CASES, DENSE, Case
from latency.records import Records
from tofe_export.graph.bind import Binding
from tofe_export.graph.passes.base import Pass
from tofe_export.graph.passes.gelu_form import GeluFormPass
from tofe_export.graph.passes.lower_concat import LowerConcatPass
from tofe_export.graph.passes.split_heads import SplitHeadsPass
from tofe_export.model.lean import STEPS

KIND = "tofe-export rewrites 1"
SOURCES = tuple(Path(__file__).with_name(name) for name in ("rewrites.py", "candidates.py"))
NONE, ALL = "none", "all"
ONE_GATHER = "frozen rows apart"
LOWERINGS = {"deit_s-2.0": (DENSE, "concat", "scatter"), "lvvit_s-3.3": (DENSE, "concat")}


@dataclass(frozen=True)
class Rewrite:
    """One rewrite, what was expected of it before it was measured, and where it changes anything."""

    name: str
    expected: str
    what: type[Pass] | None = None
    """The pass that does it; None for a step of the lean copy of this name, and for the lowering's own."""
    models: tuple[str, ...] = ("deit", "lvvit")
    lowerings: tuple[str, ...] = (DENSE, "concat", "scatter")
    one_image: bool = False
    """Whether it needs batch 1."""

    def applies(self, model: str, lowering: str, batch: int) -> bool:
        """Whether it changes the graphs of a model."""
        fits = model.startswith(self.models) and lowering in self.lowerings
        return fits and (batch == 1 or not self.one_image)


REWRITES = (
    Rewrite(
        "scales",
        "1 to 2 %: a division of all tokens goes twice per block, each a pass over what the sum reads anyway",
        models=("lvvit",),
    ),
    Rewrite(
        "norms",
        "nothing measurable: ONNX Runtime folds batch norms into convolutions itself",
        models=("lvvit",),
    ),
    Rewrite(
        "last rows",
        "the dense model by its 5 % fewer MACs; ToFe by 1 %, as few tokens are left in its last block",
        models=("deit",),
    ),
    Rewrite(
        "gelu form",
        "4 to 5 %: one fused operator instead of five over the widest tensor of every block",
        GeluFormPass,
    ),
    Rewrite(
        "split heads",
        "about 2 % at batch 1: a transposed copy of Q, K and V less per block",
        SplitHeadsPass,
        one_image=True,
    ),
    Rewrite(
        ONE_GATHER,
        "below 1 %: two gathers copy each row once, one gather and two slices twice, in two of twelve blocks",
        lowerings=("concat",),
    ),
)


def recipe_of(names: Sequence[str], name: str) -> Recipe:
    """A graph with these rewrites alone."""
    steps = tuple(step for step in STEPS if step in names)
    out = tuple(r.what for r in REWRITES if r.what is not None and r.name not in names)

    def passes(listed: list[Pass], binding: Binding) -> list[Pass]:
        kept = [item for item in listed if not isinstance(item, out)]
        if ONE_GATHER in names:
            return kept
        lowered = OneGatherPass(binding.keep, binding.batch)
        return [lowered if isinstance(item, LowerConcatPass) else item for item in kept]

    return Recipe(name, steps, passes=passes)


def recipes(rewrites: Sequence[Rewrite]) -> list[Recipe]:
    """None, all, and for every rewrite alone and without it."""
    every = [rewrite.name for rewrite in rewrites]
    found = [recipe_of([], NONE), recipe_of(every, ALL)]
    for name in every:
        found.append(recipe_of([name], alone(name)))
        found.append(recipe_of([other for other in every if other != name], without(name)))
    return found


def alone(name: str) -> str:
    """The name of the graph with one rewrite only."""
    return f"alone: {name}"


def without(name: str) -> str:
    """The name of the graph with all but one."""
    return f"without: {name}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make and measure what is missing; print a table per group."""
    given = _options(arguments)
    records = Records(given.out)
    records.data["kind"] = KIND
    for case in (
        case for case in CASES if case.name in LOWERINGS and case.name.startswith(tuple(given.only))
    ):
        workshop = Workshop(case, given.work / case.name, SOURCES)
        for lowering in (lowering for lowering in LOWERINGS[case.name] if lowering in given.lowerings):
            for batch in given.batches:
                _group(workshop, case, lowering, batch, given, records)


def _group(
    workshop: Workshop, case: Case, lowering: str, batch: int, given: argparse.Namespace, records: Records
) -> None:
    rewrites = [rewrite for rewrite in REWRITES if rewrite.applies(case.model, lowering, batch)]
    measured = measure_group(
        workshop, recipes(rewrites), lowering, batch, given, records, answers_of=NONE, twice=ALL
    )
    if measured is None:
        return
    record, turns = measured
    rows = [
        {
            "rewrite": rewrite.name,
            "expected": rewrite.expected,
            "alone": turns.ratio(NONE, alone(rewrite.name)),
            "left_out": turns.ratio(without(rewrite.name), ALL),
        }
        for rewrite in rewrites
    ]
    record |= {"together": turns.ratio(NONE, ALL), "rows": rows}
    records.add(record)
    print(table(record), flush=True)


def table(record: Facts) -> str:
    """A line per rewrite: by how much it makes the graph faster, alone and as the last one."""
    lines = [f"{heading(record)}: all together {in_words(record['together'])}"]
    lines += [
        f"  {row['rewrite']:18} alone {in_words(row['alone']):28} as the last {in_words(row['left_out']):28}"
        f" {row['left_out']['verdict']}"
        for row in record["rows"]
    ]
    worst = max(side["parity"] for side in record["sides"].values())
    return "\n".join([*lines, f"  largest difference of answers {worst:.1e} of the logits' range"])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser(
        "What each exact rewrite brings.", (DENSE, "concat", "scatter"), machine.RESULTS / "rewrites.json"
    )
    options.add_argument("--only", type=names, default=[""], help="cases, or how their names begin")
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
