"""The table and the figure of an experiment's results.

    python benchmarks/accuracy/report.py [RESULTS.json] [--docs docs/results.md]

Prints Markdown; with --docs it also takes the place of what lies between this size's two markers in that
file. The figure goes beside the results, or beside the docs as figures/accuracy_SIZE.svg.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from accuracy.arms import ARMS
from accuracy.figure import draw
from accuracy.results import Record, record_from
from accuracy.settings import SIZES, Size
from accuracy.summary import Cell, cells, difference, find, over_seeds, verdict
from accuracy.training import fresh_backbone
from tofe_export.budget import Cost, gmacs, macs
from tofe_export.files import write_atomic
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.training.measure import Counts, round_counts

STRUCTURES: dict[str, dict[str, Any]] = {
    "no-reuse": {"reuse": False},
    "identity": {"approximator": "identity"},
}

CLAIMS = (
    ("no-reuse", "reuse helps", "Table II: +2.7 points"),
    ("identity", "the approximator helps", "Table IV: +1.4 points"),
    ("no-apr-loss", "the approximation loss helps", "Eq. 10; no figure given"),
    ("fixed-ratios", "learned ratios are at least as good as fixed ones", "Table V: +0.13 points"),
    ("dynamicvit", "ToFe is above DynamicViT", "Table I"),
    ("evit", "ToFe is above EViT", "Table I"),
    ("tome", "ToFe is above ToMe (trained)", "Table I"),
    ("idlevit", "ToFe is above IdleViT", "Table I"),
    ("random", "the selector beats chance", "control, not in the paper"),
    ("radial", "the selector beats the centre tokens", "control, not in the paper"),
    ("fewer-blocks", "ToFe is above fewer blocks", "control, not in the paper"),
    ("lower-resolution", "ToFe is above a lower resolution", "control, not in the paper"),
)


def main() -> None:
    """Write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(__file__).parents[1] / "results" / "accuracy_small.json"
    parser.add_argument("results", type=Path, nargs="?", default=default)
    parser.add_argument("--docs", type=Path)
    options = parser.parse_args()
    content = json.loads(options.results.read_text())
    table = cells([record_from(item) for item in content["records"]])
    name = f"accuracy_{content['size']}"
    folder = options.docs.parent / "figures" if options.docs else options.results.parent
    folder.mkdir(parents=True, exist_ok=True)
    draw(table, folder / f"{name}.svg")
    text = "\n".join(markdown(content, table))
    print(text)
    if options.docs:
        write_atomic(options.docs, _replaced(options.docs.read_text(), name, text).encode())


def markdown(content: dict[str, Any], table: Sequence[Cell]) -> Iterator[str]:
    """The report, line by line."""
    settings = content["settings"]
    dense = find(table, "backbone", None)
    seeds = sorted({record.seed for cell in table for record in cell.records})
    yield f"Task {settings['task']}, seeds {', '.join(map(str, seeds))}, {settings['epochs']} epochs of "
    yield f"fine-tuning after {settings['dense_epochs']} of the dense backbone."
    if dense:
        yield f"The dense backbone: {dense.gmacs:.4g} GMACs, accuracy {dense.accuracy.points()} %."
    yield ""
    yield f"![Accuracy against cost](figures/accuracy_{content['size']}.svg)"
    for share in _shares(table):
        yield from ("", f"### {_title(share, table)}", "", *_table(table, share))
    yield from ("", "### The paper's orderings at this size", "", *_claims(table, settings["compared"]))
    yield from ("", "### One model for several budgets", "", *_multi(table))
    yield from ("", "### Budgets reached", "", *_reached(table, SIZES[content["size"]]))


def _shares(table: Sequence[Cell]) -> list[float]:
    return sorted({cell.share for cell in table if cell.share is not None})


def _title(share: float, table: Sequence[Cell]) -> str:
    budget = next(cell.records[0].budget_gmacs for cell in table if cell.share == share)
    return f"{share:.1%} of the dense cost: {budget} GMACs"


def _table(table: Sequence[Cell], share: float) -> Iterator[str]:
    reference = find(table, "tofe", share)
    yield "| arm | GMACs | accuracy % | against ToFe, by seed | by test image | s per run |"
    yield "|---|---|---|---|---|---|"
    for arm in ARMS:
        for cell in table:
            if cell.arm != arm.name or cell.share not in (share, None) or arm.together:
                continue
            gap = difference(cell, reference) if reference and cell is not reference else None
            label = arm.label + (", adaptive" if cell.mode == "adaptive" else "")
            seeds, images = (gap.seeds.points(True), gap.images.points(True)) if gap else ("", "")
            yield (
                f"| {label} | {cell.gmacs:.4g} | {cell.accuracy.points()} | {seeds} | {images} "
                f"| {cell.seconds:.0f} |"
            )


def _claims(table: Sequence[Cell], shares: Sequence[float]) -> Iterator[str]:
    yield "| claim | source | cost | other arm minus ToFe, by seed | at this size |"
    yield "|---|---|---|---|---|"
    for name, claim, source in CLAIMS:
        for share in shares:
            cell, reference = find(table, name, share), find(table, "tofe", share)
            gap = difference(cell, reference) if cell and reference else None
            if gap:
                yield f"| {claim} | {source} | {share:.1%} | {gap.seeds.points(True)} | {verdict(gap)} |"


def _multi(table: Sequence[Cell]) -> Iterator[str]:
    yield "| model | budget | GMACs | accuracy % | against one training per budget, by seed |"
    yield "|---|---|---|---|---|"
    for arm in ARMS:
        for cell in table:
            if cell.arm != arm.name or not arm.together or cell.mode != "static":
                continue
            single = find(table, "tofe", cell.share)
            gap = difference(cell, single) if single else None
            against = gap.seeds.points(True) if gap else ""
            cost = f"{cell.share:.1%} | {cell.gmacs:.4g}"
            yield f"| {arm.label} | {cost} | {cell.accuracy.points()} | {against} |"


def _reached(table: Sequence[Cell], size: Size) -> Iterator[str]:
    yield (
        "Sampling is what training does; N^s are its mean counts, rounded; exported are counts within the "
        "budget."
    )
    yield ""
    yield (
        "| model | budget | sampling: off the budget | worst seed | N^s: off sampling, worst "
        "| exported, worst |"
    )
    yield "|---|---|---|---|---|---|"
    labels = {arm.name: arm.label for arm in ARMS}
    for cell in table:
        sampled = [record.more.get("sampled", {}).get("gmacs") for record in cell.records]
        budget = cell.records[0].budget_gmacs
        if cell.share is None or budget is None or None in sampled:
            continue
        target = over_seeds([found / budget - 1 for found in sampled])
        missed = [found / budget - 1 for found in sampled]
        cost = cost_of(size, **STRUCTURES.get(cell.arm, {}))
        rounded = [gmacs(macs(cost, round_counts(cost, counts_of(record)))) for record in cell.records]
        exported = [record.gmacs for record in cell.records]
        yield (
            f"| {labels[cell.arm]} | {cell.share:.1%} | {target.points(True)} % | {_worst(missed)} "
            f"| {_worst(_off(rounded, sampled))} | {_worst(_off(exported, sampled))} |"
        )


def cost_of(size: Size, **structure: Any) -> Cost:  # noqa: ANN401 - fields of the structure
    """Prices of ToFe on the backbone of a size."""
    backbone = fresh_backbone(size, 0)
    return ToFe(backbone, Structure(backbone.locations, **structure)).cost()


def counts_of(record: Record) -> Counts:
    """What sampling kept, from a record."""
    sampled = record.more["sampled"]
    return Counts(tuple(sampled["kept"]), sampled["gmacs"], 0)


def _off(found: Sequence[float], expected: Sequence[float]) -> list[float]:
    return [a / b - 1 for a, b in zip(found, expected, strict=True)]


def _worst(shares: Sequence[float]) -> str:
    return f"{100 * max(shares, key=abs):+.2f} %"


def _replaced(text: str, name: str, report: str) -> str:
    """`text` with `report` between the markers of `name`. Raises ValueError where they are missing."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, found, rest = text.partition(begin)
    _, also, tail = rest.partition(end)
    if not (found and also):
        raise ValueError(f"expected the markers {begin} and {end}")
    return f"{head}{begin}\n\n{report}\n\n{end}{tail}"


if __name__ == "__main__":
    main()
