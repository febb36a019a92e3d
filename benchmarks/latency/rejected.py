"""Rewrites that were tried and not kept: each on top of all that are, for DeiT-S at 2.0 GMACs.

    python benchmarks/latency/rejected.py [--lowerings dense,concat] [--batches 1,8] [--threads 2]
        [--seconds 4] [--openings 8] [--work DIR] [--made] [--make] [--out FILE]

A figure above 0 that its interval keeps above 0 would be a reason to keep one. Groups that are in the results
file are not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

import machine

from latency.ablation import Facts, Listed, Recipe, Workshop, heading, in_words, measure_group, parser
from latency.candidates import (
    DropUnitScalesPass,
    InterleavePass,
    OneGatherPass,
    SharedNormPass,
    WholeSelectorPass,
    affine_in_weights,
    scale_in_weights,
)
from latency.cases import CASES, DENSE
from latency.flat_rows import FlatRowsPass
from latency.records import Records
from tofe_export.graph.bind import Binding
from tofe_export.graph.passes.base import Pass
from tofe_export.graph.passes.clean_up import CleanUpPass
from tofe_export.graph.passes.int32_slices import Int32SlicesPass
from tofe_export.graph.passes.lower_concat import LowerConcatPass
from tofe_export.graph.passes.lower_dense import LowerDensePass
from tofe_export.graph.passes.lower_scatter import LowerScatterPass
from tofe_export.model.tofe import ToFe

KIND = "tofe-export rejected rewrites 1"
CASE, NOW = "deit_s-2.0", "as exported"
SOURCES = tuple(Path(__file__).with_name(name) for name in ("rejected.py", "candidates.py", "flat_rows.py"))
_LOWERINGS = (LowerConcatPass, LowerScatterPass, LowerDensePass)


def _as_listed(listed: list[Pass], binding: Binding) -> list[Pass]:
    return listed


def _without_unit_scales(listed: list[Pass], binding: Binding) -> list[Pass]:
    return [DropUnitScalesPass(), *listed]


def _with_one_gather(listed: list[Pass], binding: Binding) -> list[Pass]:
    one = OneGatherPass(binding.keep, binding.batch)
    return [one if isinstance(item, LowerConcatPass) else item for item in listed]


def _with_whole_selectors(listed: list[Pass], binding: Binding) -> list[Pass]:
    place = next(i for i, item in enumerate(listed) if isinstance(item, _LOWERINGS))
    return [*listed[:place], WholeSelectorPass(), *listed[place:]]


def _with_shared_norms(listed: list[Pass], binding: Binding) -> list[Pass]:
    place = next(i for i, item in enumerate(listed) if isinstance(item, _LOWERINGS)) + 1
    return [*listed[:place], SharedNormPass(), *listed[place:]]


def _with_flat_rows(listed: list[Pass], binding: Binding) -> list[Pass]:
    place = next(i for i, item in enumerate(listed) if isinstance(item, Int32SlicesPass))
    return [*listed[:place], FlatRowsPass(), *listed[place:]]


def _interleaved(listed: list[Pass], binding: Binding) -> list[Pass]:
    flat = _with_flat_rows(listed, binding)
    place = next(i for i, item in enumerate(flat) if isinstance(item, FlatRowsPass)) + 1
    assert binding.batch is not None  # a workshop's graphs have fixed batches
    return [*flat[:place], CleanUpPass(), InterleavePass(binding.batch), *flat[place:]]


@dataclass(frozen=True)
class Candidate:
    """A rewrite, what was expected of it before it was measured, and where it was tried."""

    name: str
    expected: str
    passes: Listed = _as_listed
    change: Callable[[ToFe], ToFe] | None = None
    lowerings: tuple[str, ...] = ("concat",)
    batches: tuple[int, ...] = (1, 8)

    def recipe(self) -> Recipe:
        """How its graph is made: all that is exported today, and this."""
        return Recipe(self.name, change=self.change, passes=self.passes)


CANDIDATES = (
    Candidate(
        "linear layers on matrices",
        "about 3 % at batch 1 (one node in four goes, and biases join their products), 1 to 2 % at batch 8",
        _with_flat_rows,
        lowerings=("concat", "dense"),
    ),
    Candidate(
        "attention scale in Wq",
        "nothing: ONNX Runtime makes a scale in front of a product the product's own factor",
        _without_unit_scales,
        scale_in_weights,
    ),
    Candidate(
        "affine of norms in the weights",
        "nothing: the operator multiplies by its scale in the same pass over the row, and needs one",
        change=affine_in_weights,
    ),
    Candidate(
        "selector and block share a norm",
        "nothing, or a loss: the norm of the kept rows goes, but they are gathered a second time",
        _with_shared_norms,
        affine_in_weights,
    ),
    Candidate(
        "one gather and two slices",
        "a loss below 1 %: every row is copied twice instead of once",
        _with_one_gather,
    ),
    Candidate(
        "selector on all rows",
        "below 0.5 %: a copy of the patches goes in front of each selector, for one more row per image",
        _with_whole_selectors,
    ),
    Candidate(
        "tokens interleaved",
        "about 1 %: no transposed copies of Q, K and V at batch 8, but rows of one image lie far apart",
        _interleaved,
        lowerings=(DENSE,),
        batches=(8,),
    ),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make and measure what is missing; print a table per group."""
    given = _options(arguments)
    records = Records(given.out)
    records.data["kind"] = KIND
    (case,) = (case for case in CASES if case.name == CASE)
    workshop = Workshop(case, given.work / f"{case.name}-rejected", SOURCES)
    for lowering in given.lowerings:
        for batch in given.batches:
            _group(workshop, lowering, batch, given, records)


def _group(
    workshop: Workshop, lowering: str, batch: int, given: argparse.Namespace, records: Records
) -> None:
    tried = [item for item in CANDIDATES if lowering in item.lowerings and batch in item.batches]
    recipes = [Recipe(NOW), *(item.recipe() for item in tried)]
    if not tried or not (
        measured := measure_group(
            workshop, recipes, lowering, batch, given, records, answers_of=NOW, twice=NOW
        )
    ):
        return
    record, turns = measured
    record["rows"] = [
        {"rewrite": item.name, "expected": item.expected, "brings": turns.ratio(NOW, item.name)}
        for item in tried
    ]
    records.add(record)
    print(table(record), flush=True)


def table(record: Facts) -> str:
    """A line per candidate: by how much it makes the graph faster."""
    lines = [heading(record)]
    lines += [
        f"  {row['rewrite']:32} {in_words(row['brings']):28} {row['brings']['verdict']}"
        for row in record["rows"]
    ]
    return "\n".join(lines)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    out = machine.RESULTS / "rejected.json"
    return parser("Rewrites that were tried and not kept.", (DENSE, "concat"), out).parse_args(arguments)


if __name__ == "__main__":
    main()
