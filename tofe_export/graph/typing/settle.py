"""Decide what stays float32 in a typed graph, and prove on reference images that the rest may be rounded.

First the float32 graph runs on a few images and shows how large every tensor gets; what does not fit the
type, with head-room, is held. Then the typed graph is computed by the rounding evaluator and judged by the
checks of `verify`, with the same limits. A number that becomes infinite anyway holds the nodes around it;
an answer that is too far off holds the residual stream, where rounding adds up. Then it is tried again, and
an export that still does not pass fails rather than write a graph that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from tofe_export.errors import PrecisionError
from tofe_export.graph.typing.common import Common
from tofe_export.graph.typing.evaluator import Overflow
from tofe_export.graph.typing.half import Half
from tofe_export.graph.typing.islands import required
from tofe_export.graph.typing.kernels import Kernels
from tofe_export.graph.typing.magnitudes import Magnitudes
from tofe_export.graph.typing.session import RoundingSession
from tofe_export.graph.typing.typed import type_imported
from tofe_export.graph.typing.weights import HalfWeights, largest_constants
from tofe_export.runtime.session import Array
from tofe_export.verify.case import Case
from tofe_export.verify.checks import all_checks
from tofe_export.verify.limits import Limits, limits_for
from tofe_export.verify.observe import run_probe, run_product
from tofe_export.verify.report import Check
from tofe_export.verify.runs import Runs, run_all
from tofe_export.verify.sets import overlap

MEASURED_IMAGES = 8
EVALUATED_IMAGES = 4
ATTEMPTS = 8
"""How often more is held in float32 before an export gives up; an MLP that overflows takes four."""


class Typed(NamedTuple):
    """A typed graph: what it was made of, and its float32 nodes with their reasons."""

    source: onnx.ModelProto
    graph: onnx.ModelProto
    float32: dict[str, str]


@dataclass(frozen=True)
class Settled:
    """What a typed graph is made by: for this one, and for its siblings of other batch sizes."""

    magnitudes: Magnitudes
    asked: tuple[str, ...]
    evaluated: dict[str, Any]
    """Figures of the evaluation, as the manifest holds them."""
    typed: tuple[Typed, ...]
    """The graphs that were evaluated: `apply` need not make them again."""


@dataclass(frozen=True)
class Evaluation:
    """One run of the evaluator on product and probe, judged."""

    runs: Runs
    checks: tuple[Check, ...]
    overflow: Overflow | None
    typed: tuple[Typed, ...]

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words; empty if nothing."""
        failed = [f"{check.name}: {check.detail}" for check in self.checks if not check.passed]
        return [f"overflow: {self.overflow}", *failed] if self.overflow else failed


@dataclass(frozen=True)
class Settler:
    """Settles graphs of one precision; `folder` holds the weights files, float32 and half."""

    folder: Path
    half: Half
    weights: HalfWeights
    kernels: Kernels
    asked: tuple[str, ...] = ()
    """Values of `--float32`."""
    say: Callable[[str], None] = lambda text: None
    decoded: dict[str, Array] = field(default_factory=dict)
    """Half weights as float32, which all graphs share."""
    common: Common = field(default_factory=Common)
    """What graphs begin with in common, by image."""

    def settle(self, case: Case, product: onnx.ModelProto, probe: onnx.ModelProto | None) -> Settled:
        """Find what must stay float32 in the bound float32 graphs of `case` (probe None: dense).

        Raises:
            PrecisionError: the typed graph overflows or is too far off, whatever is held in float32.
        """
        limits = limits_for(self.half.precision, case.rounding)
        self.say(f"magnitudes in {case.name}")
        magnitudes = self.measure(_first(case, MEASURED_IMAGES), product, probe)
        asked, added = self.asked, list[str]()
        few = _first(case, EVALUATED_IMAGES)
        for _ in range(ATTEMPTS):
            self.say(f"rounding in {case.name}")
            seen = self.evaluate(few, limits, product, probe, magnitudes, asked)
            if not seen.failures:
                return Settled(magnitudes, asked, _figures(seen, limits, added), seen.typed)
            if seen.overflow:
                magnitudes = self._with(magnitudes, seen.overflow)
                added.append(str(seen.overflow))
            elif "stream" not in asked:
                asked = (*asked, "stream")
                added.append("residual stream")
            else:
                break
        raise PrecisionError(
            f"{case.name}: {self.half.name} does not give the model's answers, even with "
            f"{', '.join(added) or 'all that was asked for'} in float32: {'; '.join(seen.failures)}. "
            "Leave this precision out with --precision fp32, or hold more modules with --float32"
        )

    def measure(self, case: Case, product: onnx.ModelProto, probe: onnx.ModelProto | None) -> Magnitudes:
        """Magnitudes in a float32 graph on all images of `case`."""
        model = product if probe is None else probe
        session = RoundingSession(model, self.folder, self.kernels, measure=True, common=self.common)
        if probe is None:
            run_product(case, session)
        else:
            run_probe(case, session)
        return Magnitudes(dict(session.evaluator.largest), largest_constants(model, self.folder))

    def evaluate(
        self,
        case: Case,
        limits: Limits,
        product: onnx.ModelProto,
        probe: onnx.ModelProto | None,
        magnitudes: Magnitudes,
        asked: Sequence[str] = (),
    ) -> Evaluation:
        """Type the graphs by `magnitudes`, compute them with every half tensor rounded, and judge."""
        typed = [self._type(model, magnitudes, asked) for model in (product, probe) if model is not None]
        closed, *opened = [
            RoundingSession(made.graph, self.folder, self.kernels, decoded=self.decoded, common=self.common)
            for made in typed
        ]
        runs = run_all(case, limits, closed, opened[0] if opened else None)
        seen = [session.evaluator.overflow for session in (closed, *opened)]
        overflow = next((found for found in seen if found is not None), None)
        return Evaluation(runs, all_checks(runs), overflow, tuple(typed))

    def apply(self, settled: Settled, model: onnx.ModelProto) -> Typed:
        """The typed graph of `model`: one that was evaluated, or one made as those were."""
        known = (typed for typed in settled.typed if typed.source is model)
        return next(known, None) or self._type(model, settled.magnitudes, settled.asked)

    def _type(self, model: onnx.ModelProto, magnitudes: Magnitudes, asked: Sequence[str]) -> Typed:
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        graph = gs.import_onnx(copy)
        held = required(graph, self.half, magnitudes, asked)
        return Typed(model, *type_imported(graph, self.half, held, self.weights, {}))

    def _with(self, magnitudes: Magnitudes, overflow: Overflow) -> Magnitudes:
        """Magnitudes, and what was seen to overflow; a casted tensor is named after the one it copies."""
        size = math.inf if math.isnan(overflow.magnitude) else overflow.magnitude
        tensor = overflow.tensor.removesuffix(f":{self.half.name}")
        return Magnitudes({**magnitudes.activations, tensor: size}, magnitudes.constants)


def _first(case: Case, count: int) -> Case:
    return case.only(np.arange(min(count, len(case.images))))


def _figures(seen: Evaluation, limits: Limits, added: Sequence[str]) -> dict[str, Any]:
    """For the manifest."""
    runs = seen.runs
    agreement, free = runs.agreement, runs.free
    figures: dict[str, Any] = {
        "images": len(runs.case.images),
        "batch": runs.case.batch,
        "output": float(agreement.worst.max()),
        "output_limit": limits.output,
        "top1": agreement.top1,
        "overflow": None,
        "added": list(added),
    }
    if free is not None:
        forced = next(check for check in seen.checks if check.name.startswith("forced"))
        figures |= {
            "forced_output": forced.numbers["worst"],
            "scores": [float(error) for error in runs.score_errors.max(axis=0)],
            "scores_limit": limits.scores,
            "overlap": [float(share) for share in overlap(free.kept, runs.case.kept).min(axis=0)],
            "swapped_images": int((~runs.equal).sum()),
        }
    return figures
