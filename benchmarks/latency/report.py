"""Write the tables of a results file into docs/performance.md, between its markers.

    python benchmarks/latency/report.py [RESULTS.json] [--docs docs/performance.md]

Everything is read from the JSON, and from `rewrites.json`, `rejected.json` and `products.json` beside it.
Verdicts are those of the run: a whole interval on one side of 1, beyond what the same graph showed against
itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

import machine

from latency.ablation_report import rejected_table, rewrites_table
from latency.cases import AGAIN, CASES, DENSE, ORACLE, OURS, PLAIN, SIDES
from latency.products import laws_table

DOCS = Path(__file__).parents[2] / "docs" / "performance.md"

Facts = Mapping[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the sections."""
    parser = argparse.ArgumentParser(description="Write the tables of a results file into the docs.")
    parser.add_argument("results", type=Path, nargs="?", default=machine.RESULTS / "latency.json")
    parser.add_argument("--docs", type=Path, default=DOCS)
    given = parser.parse_args(arguments)
    data = json.loads(given.results.read_text(encoding="utf-8"))
    text = given.docs.read_text(encoding="utf-8")
    for name, section in (sections(data) | ablations(given.results.parent)).items():
        text = replaced(text, name, section)
    given.docs.write_text(text, encoding="utf-8")
    print("wrote", given.docs)


def sections(data: Facts) -> dict[str, str]:
    """The text between each pair of markers."""
    return {
        "machine": machine_line(data),
        "claims": "\n".join(claims_table(data)),
        "tax": "\n".join(tax_table(data)),
        "rivals": "\n".join(rivals_table(data)),
        "latencies": "\n\n".join("\n".join(table) for table in latency_tables(data)),
        "bare": "\n".join(bare_table(data)),
    }


def ablations(folder: Path) -> dict[str, str]:
    """The same of those results of the scripts for rewrites that lie beside."""
    found = {}
    tables = {"rewrites": rewrites_table, "rejected": rejected_table, "products": laws_table}
    for name, table in tables.items():
        if (path := folder / f"{name}.json").exists():
            found[name] = "\n".join(table(json.loads(path.read_text(encoding="utf-8"))))
    return found


def machine_line(data: Facts) -> str:
    """What it was measured on."""
    facts, identity = data["machine"], data["bench_machine"]["identity"]
    packages = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    gpu = f", {identity['gpu']}" if identity["gpu"] else ""
    return (
        f"Measured {facts['date']} on {identity['processor']}, {identity['cores']} cores{gpu}, "
        f"{identity['memory_gib']} GiB; {facts['system']}, Python {facts['python']}; {packages}."
    )


def claims_table(data: Facts) -> Iterator[str]:
    """The better of ours against plain and dense, beside the MACs."""
    yield "| case | batch | threads | ours | times plain | 95 % | times dense | 95 % | MACs | verdict |"
    yield "|---|--:|--:|---|--:|---|--:|---|--:|---|"
    for group in _groups(data):
        name = best_of_ours(group)
        if name is None:
            continue
        side, dense = group["sides"][name], group["sides"][DENSE]
        plain_ratio, dense_ratio = (side["as_fast_as"][key] for key in (PLAIN, DENSE))
        macs = dense["gmacs"] / side["gmacs"]
        yield (
            f"| {_where(group)} | {name} | {plain_ratio['value']:.2f} | {_interval(plain_ratio)} "
            f"| {dense_ratio['value']:.2f} | {_interval(dense_ratio)} | {macs:.2f} "
            f"| {dense_ratio['verdict']} |"
        )


def tax_table(data: Facts) -> Iterator[str]:
    """Latency over the oracle's."""
    yield "| case | batch | threads | scatter | 95 % | concat | 95 % |"
    yield "|---|--:|--:|--:|---|--:|---|"
    for group in _groups(data):
        ratios = [_tax(group, name) for name in OURS]
        if any(ratios):
            cells = (f"{ratio['value']:.3f} | {_interval(ratio)}" if ratio else " | " for ratio in ratios)
            yield f"| {_where(group)} | {' | '.join(cells)} |"


def rivals_table(data: Facts) -> Iterator[str]:
    """Ours against everybody: how many times as fast, and whether that may be claimed."""
    yield "| against | case | batch | threads | GMACs | ours | GMACs | times as fast | 95 % | verdict |"
    yield "|---|---|--:|--:|--:|---|--:|--:|---|---|"
    for rival in (n for n in SIDES if n not in (PLAIN, DENSE, *OURS, ORACLE)):
        for group in _groups(data):
            ours = best_of_ours(group)
            if rival not in group["sides"] or ours is None:
                continue
            theirs, side = group["sides"][rival], group["sides"][ours]
            ratio = inverse(theirs["as_fast_as"][ours])
            yield (
                f"| {rival} | {_where(group)} | {theirs['gmacs']:.2f} | {ours} | {side['gmacs']:.2f} "
                f"| {ratio['value']:.3f} | {_interval(ratio)} | {ratio['verdict']} |"
            )


def latency_tables(data: Facts) -> Iterator[list[str]]:
    """Every figure: one table per group."""
    for group in _groups(data):
        lines = [
            f"**{group['case']}, batch {group['batch']}, {group['threads']} threads, {group['provider']}** "
            f"(same graph {group['noise']['value']:.3f}, {group['noise']['rounds']} rounds)",
            "",
            "| side | GMACs | median, ms | p90, ms | times plain | times dense |",
            "|---|--:|--:|--:|--:|--:|",
        ]
        for name, side in group["sides"].items():
            if name != AGAIN:
                lines.append(_latency_line(name, side))
        yield lines


def bare_table(data: Facts) -> Iterator[str]:
    """Our ratio beside the bare loop's."""
    yield "| case | batch | threads | side | bare loop, times plain | least - largest | here | difference |"
    yield "|---|--:|--:|---|--:|---|--:|--:|"
    for row in data["bare"]:
        for group in _groups(data):
            same = all(group[key] == row[key] for key in ("case", "batch", "threads"))
            if same and group["provider"] == "cpu" and row["side"] in group["sides"]:
                ours = group["sides"][row["side"]]["as_fast_as"][PLAIN]["value"]
                yield (
                    f"| {row['case']} | {row['batch']} | {row['threads']} | {row['side']} "
                    f"| {row['ratio']:.3f} | {row['least']:.3f} - {row['largest']:.3f} | {ours:.3f} "
                    f"| {ours / row['ratio'] - 1:+.1%} |"
                )


def best_of_ours(group: Facts) -> str | None:
    """The faster of our two lowerings in a group."""
    there = [name for name in OURS if name in group["sides"]]
    return min(there, key=lambda name: float(group["sides"][name]["latency"]["median_ms"]), default=None)


def inverse(ratio: Facts) -> dict[str, Any]:
    """The same comparison from the other side."""
    turned = {"faster": "slower", "slower": "faster"}
    high = 1 / ratio["low"] if ratio["low"] else float("inf")
    return {
        "value": 1 / ratio["value"],
        "low": 1 / ratio["high"],
        "high": high,
        "verdict": turned.get(ratio["verdict"], ratio["verdict"]),
    }


def replaced(text: str, name: str, section: str) -> str:
    """`text` with `section` between the markers of `name`. Raises ValueError where they are missing."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    head, found, rest = text.partition(begin)
    _, also, tail = rest.partition(end)
    if not (found and also):
        raise ValueError(f"expected the markers {begin} and {end}")
    return f"{head}{begin}\n\n{section}\n\n{end}{tail}"


def _groups(data: Facts) -> list[dict[str, Any]]:
    """In the order of cases and batches, most threads first; where a group was measured twice, the larger."""
    largest: dict[tuple[Any, ...], dict[str, Any]] = {}
    for group in data["groups"]:
        key = tuple(group[name] for name in ("case", "batch", "threads", "provider"))
        if key not in largest or len(group["sides"]) > len(largest[key]["sides"]):
            largest[key] = group
    return sorted(largest.values(), key=lambda g: (_rank(data, g["case"]), g["batch"], -g["threads"]))


def _rank(data: Facts, case: str) -> int:
    known = [case.name for case in CASES]
    names = list(dict.fromkeys([*known, *(group["case"] for group in data["groups"])]))
    return names.index(case)


def _tax(group: Facts, name: str) -> dict[str, Any] | None:
    """How many times as long a lowering takes as the oracle: the inverse of how fast it is."""
    found = group["sides"].get(name, {}).get("as_fast_as", {}).get(ORACLE)
    return inverse(found) if found else None


def _latency_line(name: str, side: Facts) -> str:
    latency, ratios = side["latency"], side["as_fast_as"]
    p90 = "" if latency["p90_ms"] is None else f"{latency['p90_ms']:.2f}"
    plain, dense = (f"{ratios[key]['value']:.3f}" if key in ratios else "" for key in (PLAIN, DENSE))
    return f"| {name} | {side['gmacs']:.3f} | {latency['median_ms']:.2f} | {p90} | {plain} | {dense} |"


def _where(group: Facts) -> str:
    return f"{group['case']} | {group['batch']} | {group['threads']}"


def _interval(ratio: Facts) -> str:
    bounded = ratio["low"] > 0 and isfinite(ratio["high"])
    return f"{ratio['low']:.3f} - {ratio['high']:.3f}" if bounded else "too few rounds"


if __name__ == "__main__":
    main()
