"""Graphs that differ in one rewrite each: how they are made, compared in their answers, and measured.

All graphs of a case, lowering and batch take turns in one process, one of them twice (the A/A pair), so every
ratio comes from paired rounds. Where a session's memory happens to lie alone makes up to 2 % at batch 1, so
sessions are opened anew several times, in another order each time, and rounds of all openings count. Before
that each graph must answer like the first of them, within 1e-5 of the logits' range: a rewrite that changes
the function is a mistake, not a row.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from latency.cases import AGAIN, DENSE, Case
from latency.models import drawn
from latency.records import Records
from latency.sides import Side, SideList
from latency.sources import sources_of
from latency.turns import How, feeds_of, measure_turns
from tofe_export.bench.comparison import noise_json, verdict
from tofe_export.bench.statistics import Ratio, Summary, paired_ratio
from tofe_export.graph.bind import Binding, bind, passes_for
from tofe_export.graph.macs import count_macs
from tofe_export.graph.passes.base import Pass
from tofe_export.graph.trace import Template, trace
from tofe_export.keep import solve
from tofe_export.model.lean import STEPS
from tofe_export.model.tofe import ToFe
from tofe_export.runtime.onnxruntime import OnnxRuntimeSession, Tuning

PARITY = 1e-5  # of the logits' range

Facts = dict[str, Any]
Listed = Callable[[list[Pass], Binding], list[Pass]]


@dataclass(frozen=True)
class Recipe:
    """How a graph of a case is made."""

    name: str
    steps: tuple[str, ...] = STEPS
    """Of the lean copy."""
    change: Callable[[ToFe], ToFe] | None = None
    """Makes another model that answers the same."""
    passes: Listed = lambda listed, _: listed
    """Makes the list of passes out of the usual one."""


class Workshop:
    """Makes graphs of one case; models and traces are kept."""

    def __init__(self, case: Case, folder: Path, sources: Sequence[Path] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.case, self.sides, self._sources = case, SideList(folder.resolve()), sources
        self._traces: dict[tuple[Any, ...], Template] = {}

    @cached_property
    def model(self) -> ToFe:
        """The case's ToFe model; nothing is drawn where all graphs are there."""
        return drawn(self.case).model

    @cached_property
    def keep(self) -> tuple[int, ...]:
        """K_1 .. K_S of the case's budget."""
        return solve(self.model.cost(), self.case.budget_gmacs).keep

    def make(self, recipe: Recipe, lowering: str, batch: int, keep: tuple[int, ...] | None = None) -> Side:
        """The graph, made unless the same sources made it before; `keep` in place of the budget's counts."""
        name, made_from = f"{lowering} {recipe.name}", self._made_from(lowering)
        if found := self.sides.find(name, batch, made_from):
            return found
        keep = self.keep if keep is None else keep
        binding = self._binding(lowering, batch, keep)
        template = self._template(recipe)
        with _inside(self.sides.folder):  # a pass that reads weights finds their file
            model = bind(template, binding, {}, recipe.passes(passes_for(template, binding), binding))
        file = f"{name.replace(' ', '_').replace(':', '')}-b{batch}.onnx"
        onnx.save(model, self.sides.folder / file)
        gmacs = count_macs(model, batch) / 1e9
        return self.sides.add(Side(name, file, batch, gmacs, made_from, {"keep": list(binding.keep)}))

    def path(self, side: Side) -> Path:
        """Where a graph lies."""
        return self.sides.path(side)

    def _template(self, recipe: Recipe) -> Template:
        key = (recipe.steps, recipe.change)
        if key not in self._traces:
            model = recipe.change(self.model) if recipe.change else self.model
            self._traces[key] = trace(model, self.sides.folder, lean=recipe.steps)
            gc.collect()
        return self._traces[key]

    def _binding(self, lowering: str, batch: int, keep: tuple[int, ...]) -> Binding:
        model = self.model
        return Binding(
            lowering=lowering,
            tokens=model.backbone.tokens,
            prefix=model.backbone.prefix,
            keep=() if lowering == DENSE else keep,
            batch=batch,
            reuse=model.structure.reuse,
            stages=model.stages,
        )

    def _made_from(self, lowering: str) -> str:
        digest = hashlib.sha256(sources_of(lowering).encode())
        for path in (Path(__file__), *self._sources):
            digest.update(path.read_bytes())
        return digest.hexdigest()[:16]


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def same_graph(one: Path, other: Path) -> bool:
    """Whether two files hold the same nodes, small constants and places of weights, in whichever order."""
    return _content(one) == _content(other)


def _content(path: Path) -> list[bytes]:
    graph = onnx.load(path, load_external_data=False).graph
    return sorted(item.SerializeToString(deterministic=True) for item in (*graph.node, *graph.initializer))


def parity(files: Mapping[str, Path], against: str) -> dict[str, float]:
    """Largest difference of each graph's logits to those of `against`, relative to the range of these."""
    answers = {name: _answer(path) for name, path in files.items()}
    expected = answers[against]
    span = float(np.ptp(expected))
    return {name: float(np.abs(found - expected).max()) / span for name, found in answers.items()}


def _answer(path: Path) -> np.ndarray[Any, Any]:
    with OnnxRuntimeSession(path, "cpu", Tuning(2, spinning=False)) as session:
        (answer,) = session.infer(feeds_of(session, 1)[0]).values()
        return answer


def require_parity(found: Mapping[str, float]) -> None:
    """Raise SystemExit for a graph that computes something else."""
    if wrong := {name: value for name, value in found.items() if not value <= PARITY}:
        raise SystemExit(f"expected answers within {PARITY:g} of the logits' range, found {wrong}")


@dataclass(frozen=True)
class Turns:
    """What one group of graphs gave."""

    seconds: Mapping[str, np.ndarray[Any, Any]]
    noise: Ratio

    def ratio(self, reference: str, candidate: str) -> Facts:
        """How many times as fast `candidate` is, with interval and verdict."""
        ratio = paired_ratio(self.seconds[reference], self.seconds[candidate])
        return asdict(ratio) | {"verdict": verdict(ratio, self.noise)}

    def sides(self) -> Facts:
        """Summaries, without the second half of the A/A pair."""
        return {
            name: {"latency": asdict(Summary.of(times))}
            for name, times in self.seconds.items()
            if name != AGAIN
        }

    def times_json(self) -> Facts:
        """All times in milliseconds."""
        return {
            name: [round(float(second) * 1e3, 4) for second in times] for name, times in self.seconds.items()
        }

    def noise_json(self) -> Facts:
        """The A/A pair."""
        return noise_json(self.noise)


def take_turns(files: Mapping[str, Path], twice: str, how: How, number: int = 0) -> Turns:
    """Open all files in an order drawn from `number`, and measure them in turn, `twice` for the A/A pair."""
    named = {**files, AGAIN: files[twice]}
    order = np.random.default_rng(number).permutation(list(named)).tolist()
    found = measure_turns({name: named[name] for name in order}, how)
    seconds = {name: found[name].seconds for name in named}
    return Turns(seconds, paired_ratio(seconds[twice], seconds[AGAIN]))


def more_turns(
    found: Mapping[str, Any] | None, files: Mapping[str, Path], twice: str, how: How, openings: int
) -> Turns:
    """The rounds of an earlier record, if there is one, and those of further openings up to `openings`."""
    done = found["openings"] if found else 0
    parts = [{name: np.array(times) / 1e3 for name, times in found["times_ms"].items()}] if found else []
    parts += [dict(take_turns(files, twice, how, number).seconds) for number in range(done, openings)]
    seconds = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Turns(seconds, paired_ratio(seconds[twice], seconds[AGAIN]))


def is_there(records: Records, group: Mapping[str, Any]) -> bool:
    """Whether a group was measured; what was too noisy to claim anything is measured again."""
    found = records.find(group)
    return found is not None and not found["noise"]["too_noisy"]


def measure_group(
    workshop: Workshop,
    recipes: Iterable[Recipe],
    lowering: str,
    batch: int,
    given: argparse.Namespace,
    records: Records,
    *,
    answers_of: str,
    twice: str,
) -> tuple[Facts, Turns] | None:
    """Make the graphs of some recipes and measure them in turn; `given` are the options of `parser`.

    All must answer like `answers_of`; `twice` is the A/A pair. Returns the record, still without what the
    script makes of it, and the times; None where nothing was to be measured.
    """
    sides = {
        recipe.name: workshop.sides.get(f"{lowering} {recipe.name}", batch)
        if given.made
        else workshop.make(recipe, lowering, batch)
        for recipe in recipes
    }
    group: Facts = {
        "case": f"{workshop.case.name} {lowering}",
        "batch": batch,
        "threads": given.threads,
        "provider": "cpu",
        "names": list(sides),
        "made_from": sorted({side.made_from for side in sides.values()}),
    }
    earlier = None if given.again else records.find(group)
    if given.make or (earlier and earlier["openings"] >= given.openings):
        return None
    files = {name: workshop.path(side) for name, side in sides.items()}
    differences = parity(files, answers_of)
    require_parity(differences)
    turns = more_turns(earlier, files, twice, How("cpu", given.threads, given.seconds), given.openings)
    found = turns.sides()
    for name, side in sides.items():
        found[name] |= {"gmacs": side.gmacs, "parity": differences[name]}
    more = {"noise": turns.noise_json(), "sides": found, "times_ms": turns.times_json()}
    return group | {"openings": given.openings} | more, turns


def parser(description: str, lowerings: Sequence[str], out: Path) -> argparse.ArgumentParser:
    """The options that all scripts of this kind share."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--lowerings", type=names, default=list(lowerings))
    made.add_argument("--batches", type=lambda text: [int(n) for n in names(text)], default=[1, 8])
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--seconds", type=float, default=4.0, help="about, per opening; at least 8 rounds")
    made.add_argument("--openings", type=int, default=8, help="of all sessions; earlier ones count")
    made.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tofe_rewrites")
    made.add_argument("--out", type=Path, default=out)
    made.add_argument("--make", action="store_true", help="only make the graphs")
    made.add_argument("--made", action="store_true", help="measure the graphs as they were made last")
    made.add_argument("--again", action="store_true", help="measure what was measured already too")
    return made


def names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def heading(record: Facts) -> str:
    """What a record is of."""
    return (
        f"{record['case']} b{record['batch']} {record['threads']} threads, {record['openings']} openings, "
        f"A/A {record['noise']['value']:.3f}"
    )


def in_words(ratio: Mapping[str, Any]) -> str:
    """`+4.1 % (3.0 to 5.2)`: what a ratio says, with its interval."""
    value, low, high = (100 * (ratio[key] - 1) for key in ("value", "low", "high"))
    return f"{value:+.1f} % ({low:+.1f} to {high:+.1f})"
