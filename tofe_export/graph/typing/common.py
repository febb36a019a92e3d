"""What graphs begin with in common is computed once per image: all up to the first choice of tokens.

Budgets differ in how many tokens they keep, products and probes in what they show; up to the first selection
they are the same nodes on the same weights, a quarter of a dense model. So every tensor that depends on the
images alone, and on no choice, has a digest of all that it is made of, and what an earlier graph found out
about it is looked up: what became infinite, how large it got, and its values where a choice comes next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, TensorProto

from tofe_export.graph.typing.steps import Step

Array = npt.NDArray[Any]

CHOICES = frozenset(("TopK", "NonZero", "Greater", "Less", "Equal", "Where"))
"""Operators behind which graphs part."""


@dataclass(frozen=True)
class Result:
    """What is known of one output of a step."""

    value: Array | None
    """None where it is not kept, since no choice comes next."""
    size: float | None
    """Largest absolute value; None where it was not measured."""
    overflow: float | None
    """Magnitude of the first number that is not finite, made of numbers that are; None: there is none."""


@dataclass(frozen=True)
class Common:
    """The results of all graphs that were computed so far, by image."""

    _results: dict[tuple[bytes, bool], dict[bytes, Result]] = field(default_factory=dict)

    def of(self, images: Array, *, measured: bool) -> dict[bytes, Result]:
        """The results on these images, to look up and to add to; `measured`: those with sizes."""
        digest = hashlib.sha256(repr((images.dtype.str, images.shape)).encode())
        digest.update(np.ascontiguousarray(images).data)
        return self._results.setdefault((digest.digest(), measured), {})


@dataclass(frozen=True)
class _Part:
    """A step that graphs may have in common: digests of what it reads and makes."""

    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]


class Beginning:
    """The steps of one graph that others may begin with, too."""

    def __init__(self, graph: GraphProto, steps: Sequence[Step]) -> None:
        digests = {tensor.name: _constant_digest(tensor) for tensor in graph.initializer}
        self._images = graph.input[0].name
        digests[self._images] = b"images"  # results are kept per image
        self._parts: dict[int, _Part] = {}
        last = {output.name for output in graph.output}
        for place, step in enumerate(steps):
            if step.node.op_type in CHOICES or not digests.keys() >= set(step.inputs):
                last.update(step.inputs)
                continue
            inputs = tuple(digests[name] for name in step.inputs)
            digests |= (made := _made(step, inputs))
            self._parts[place] = _Part(inputs, tuple(made.values()))
        self._kept = frozenset(digests[name] for name in last if name in digests)

    def recall(self, feeds: Mapping[str, Array], common: Common, *, measured: bool) -> Recalled:
        """What need not be computed again on these inputs."""
        known = common.of(feeds[self._images], measured=measured)
        wanted, results = set(self._kept), dict[int, list[Result]]()
        for place, part in reversed(self._parts.items()):
            found = [known.get(digest) for digest in part.outputs]
            pairs = zip(part.outputs, found, strict=True)
            if any(one is None or (one.value is None and digest in wanted) for digest, one in pairs):
                wanted.update(part.inputs)
            else:
                results[place] = [one for one in found if one is not None]
        return Recalled(known, results, self._parts, self._kept)


@dataclass(frozen=True)
class Recalled:
    """Results of steps, by their place in a graph, that another graph found on the same image."""

    _known: dict[bytes, Result]
    _results: Mapping[int, list[Result]]
    _parts: Mapping[int, _Part]
    _kept: frozenset[bytes]

    def get(self, place: int) -> list[Result] | None:
        """Of one step; None if it must be computed."""
        return self._results.get(place)

    def add(self, place: int, results: Sequence[Result]) -> None:
        """Keep what a step gave, for other graphs."""
        if part := self._parts.get(place):
            for digest, result in zip(part.outputs, results, strict=True):
                before = self._known.get(digest)
                kept = result.value if digest in self._kept else (before.value if before else None)
                self._known[digest] = replace(result, value=kept)


def _constant_digest(tensor: TensorProto) -> bytes:
    """Of a constant: its values, or their place in a file whose name is its hash."""
    nameless = TensorProto()
    nameless.CopyFrom(tensor)
    nameless.ClearField("name")
    return hashlib.sha256(nameless.SerializeToString(deterministic=True)).digest()


def _made(step: Step, inputs: Sequence[bytes]) -> dict[str, bytes]:
    """Digests of a step's outputs: what computes them of what, and how they are rounded."""
    whole = hashlib.sha256(repr((step.kernel.kind, inputs)).encode()).hexdigest()
    rounded = {name: half.name if half else "" for name, half in step.outputs}
    return {
        name: hashlib.sha256(f"{whole} {place} {half}".encode()).digest()
        for place, (name, half) in enumerate(rounded.items())
    }
