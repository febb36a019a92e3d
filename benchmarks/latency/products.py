"""Where a graph's matrix products lose time: by shape, from ONNX Runtime's profile; weights against rows.

    python benchmarks/latency/products.py [--case deit_s-2.0] [--sides dense,concat,oracle] [--batch 1]
        [--threads 2] [--runs 60] [--work DIR] [--out FILE]

The graphs are those of `run.py --make`. A product of R rows with a K x N weight matrix takes about a + b R:
a is what reading and setting up the weights costs for however few rows, b what a row costs. Both are fitted
by least squares over all R that the graphs have of one K x N. The sum of a over a graph's products is the
time that no choice of tokens saves. Writes `results/products.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

import machine

from latency.sides import SideList
from latency.turns import feeds_of
from tofe_export.runtime.onnxruntime import OnnxRuntimeSession, Tuning

WARMUP = 10
SPAN = 4  # between the least and the largest row count, for a line to tell a from b
_KERNEL = "_kernel_time"
_FLOAT = 4  # bytes

Event = Mapping[str, Any]


class Shape(NamedTuple):
    """A product (rows, depth) x (depth, columns) with a constant right side."""

    rows: int
    depth: int
    columns: int


class Product(NamedTuple):
    """All products of one shape in a graph."""

    shape: Shape
    nodes: int
    microseconds: float
    """Of one of them, mean over the nodes of their medians over the runs."""

    @property
    def gmacs_per_second(self) -> float:
        """Speed."""
        rows, depth, columns = self.shape
        return rows * depth * columns / self.microseconds / 1e3

    def to_json(self) -> dict[str, Any]:
        """Plain data; `weights_gb_per_second` is the weight matrix divided by the time."""
        weights = self.shape.depth * self.shape.columns * _FLOAT
        return {
            **self.shape._asdict(),
            "count": self.nodes,
            "microseconds": round(self.microseconds, 1),
            "gmacs_per_second": round(self.gmacs_per_second, 1),
            "weights_gb_per_second": round(weights / self.microseconds / 1e3, 2),
        }


def profile(path: Path, threads: int, runs: int) -> list[Event]:
    """Events of a graph's kernels, idle threads not spinning."""
    with TemporaryDirectory(prefix="tofe-products-") as folder:
        tuning = Tuning(threads, spinning=False, profile=Path(folder))
        with OnnxRuntimeSession(path, "cpu", tuning) as session:
            feeds = feeds_of(session)
            for number in range(WARMUP + runs):
                session.infer(feeds[number % len(feeds)])
            found: list[Event] = json.loads(session.end_profiling().read_text(encoding="utf-8"))
    return found


def products(events: Sequence[Event], runs: int) -> list[Product]:
    """The products with weights among the events, last `runs` runs; smallest weights first."""
    times: dict[tuple[str, Shape], list[int]] = defaultdict(list)
    for event in events:
        kernel = event.get("cat") == "Node" and event["name"].endswith(_KERNEL)
        if kernel and event["args"]["op_name"] == "Gemm":
            times[event["name"], shape_of(event["args"])].append(event["dur"])
    nodes: dict[Shape, list[float]] = defaultdict(list)
    for (_, shape), found in times.items():
        nodes[shape].append(float(np.median(found[-runs:])))
    ordered = sorted(nodes, key=lambda shape: (shape.depth * shape.columns, shape))
    return [Product(shape, len(nodes[shape]), float(np.mean(nodes[shape]))) for shape in ordered]


def shape_of(arguments: Mapping[str, Any]) -> Shape:
    """The shape of a product from its event's input and output."""
    ((rows, depth),) = arguments["input_type_shape"][0].values()
    ((_, columns),) = arguments["output_type_shape"][0].values()
    return Shape(rows, depth, columns)


class Law(NamedTuple):
    """a + b R microseconds for R rows with one K x N."""

    depth: int
    columns: int
    fixed: float
    per_row: float
    rows: tuple[int, ...]
    """Row counts that it was fitted to."""


def laws(found: Sequence[Product]) -> list[Law]:
    """One per K x N that was seen with three row counts or more, the largest SPAN times the least."""
    groups: dict[tuple[int, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for product in found:
        groups[product.shape[1:]][product.shape.rows].append(product.microseconds)
    return [
        Law(*weights, *_line(points), tuple(sorted(points)))
        for weights, points in groups.items()
        if len(points) >= 3 and max(points) >= SPAN * min(points)
    ]


def _line(points: Mapping[int, Sequence[float]]) -> tuple[float, float]:
    rows = sorted(points)
    times = [float(np.mean(points[row])) for row in rows]
    fixed, per_row = np.polynomial.Polynomial.fit(rows, times, 1).convert().coef
    return round(float(fixed), 1), round(float(per_row), 3)


def fixed_ms(found: Sequence[Product], known: Sequence[Law]) -> float:
    """Milliseconds of a graph's products that do not depend on rows, as far as a law is known."""
    fixed = {(law.depth, law.columns): law.fixed for law in known}
    return sum(product.nodes * fixed.get(product.shape[1:], 0.0) for product in found) / 1e3


def table(sides: Mapping[str, Sequence[Product]], known: Sequence[Law]) -> Iterator[str]:
    """Markdown: every shape of the sides, then the laws and what they come to."""
    yield "| graph | rows | weights | products | microseconds each | GMAC/s | weights, GB/s |"
    yield "|---|--:|---|--:|--:|--:|--:|"
    for name, found in sides.items():
        for row in (product.to_json() for product in found):
            speed, weights = row["gmacs_per_second"], row["weights_gb_per_second"]
            yield (
                f"| {name} | {row['rows']} | {row['depth']} x {row['columns']} | {row['count']} | "
                f"{row['microseconds']:.0f} | {speed:.0f} | {weights:.1f} |"
            )
    yield ""
    for law in known:
        line = f"{law.fixed:.0f} + {law.per_row:.2f} R microseconds"
        yield f"{law.depth} x {law.columns}: {line} (R {', '.join(map(str, law.rows))})"
    for name, found in sides.items():
        total = sum(product.nodes * product.microseconds for product in found) / 1e3
        yield f"{name}: {fixed_ms(found, known):.2f} of {total:.2f} ms of its products do not depend on rows"


def laws_table(data: Mapping[str, Any]) -> Iterator[str]:
    """Markdown of a results file: the laws, the times that they were fitted to, and what does not shrink."""
    rows = sorted({row for law in data["laws"] for row in law["rows"]}, reverse=True)
    yield f"| weights | a + b R | {' | '.join('1 row' if row == 1 else f'{row} rows' for row in rows)} |"
    yield f"|---|---|{'--:|' * len(rows)}"
    everything = [product for found in data["sides"].values() for product in found]
    for law in data["laws"]:
        weights = law["depth"], law["columns"]
        cells = []
        for row in rows:
            times = [
                p["microseconds"]
                for p in everything
                if (p["depth"], p["columns"]) == weights and p["rows"] == row
            ]
            cells.append(f"{np.mean(times):.0f}" if times else "")
        line = f"{law['fixed']:.0f} + {law['per_row']:.2f} R"
        yield f"| {weights[0]} x {weights[1]} | {line} | {' | '.join(cells)} |"
    yield ""
    for name, found in data["sides"].items():
        total = sum(product["count"] * product["microseconds"] for product in found) / 1e3
        fixed = f"{data['fixed_ms'][name]:.1f} of the {total:.1f} ms"
        yield f"- {name}: {fixed} of its products are a, whatever is kept"


def main() -> None:
    """Profile, fit, write and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", default="deit_s-2.0")
    parser.add_argument("--sides", default="dense,concat,oracle")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tofe_latency")
    parser.add_argument("--out", type=Path, default=machine.RESULTS / "products.json")
    given = parser.parse_args()
    listed = SideList(given.work / given.case)
    sides = {
        name: products(
            profile(listed.path(listed.get(name, given.batch)), given.threads, given.runs), given.runs
        )
        for name in given.sides.split(",")
    }
    known = laws([product for found in sides.values() for product in found])
    figures = {
        "case": given.case,
        "batch": given.batch,
        "threads": given.threads,
        "runs": given.runs,
        "sides": {name: [product.to_json() for product in found] for name, found in sides.items()},
        "laws": [law._asdict() for law in known],
        "fixed_ms": {name: round(fixed_ms(found, known), 3) for name, found in sides.items()},
    }
    given.out.write_text(
        json.dumps({"machine": machine.facts(), **figures}, indent=1) + "\n", encoding="utf-8"
    )
    print("\n".join(table(sides, known)))


if __name__ == "__main__":
    main()
