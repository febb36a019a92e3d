"""What an engine says of its own precision, and whether the one that was asked for happened.

TensorRT's inspector lists the layers of the built engine as JSON. Its form differs: 8.6 and 10.x write
"Format/Datatype" per tensor ("Half", or "Channel major FP16 format ..."), 11.x splits it into two keys; a
layer may carry "Precision" itself. 8.6 shows what Myelin compiled as one opaque layer, 10.x as its parts.

The verdict is strict, because "fp16" printed over a float32 engine is the failure this guards against:

    honoured       strong: the network's own types are the proof, the inspector's view is only recorded;
                   weak fp16: at least a quarter of the typed layers; weak int8: at least half as many layers
                   as the graph quantises tensors, since the graph says where and what it leaves out is no
                   fault; and where opaque layers hide the rest, a plan too small to hold the weights in
                   float32
    not honoured   the types are there, and they are others
    not provable   weak, and the engine tells no types

For weak typing the last two raise `PrecisionError`. The bounds are judgements: see docs/tensorrt.md.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tofe_export.errors import PrecisionError
from tofe_export.fields import Fields
from tofe_export.trt.request import Job

Verdict = Literal["honoured", "not honoured", "not provable"]
VERDICTS = ("honoured", "not honoured", "not provable")

LEAST_SHARE = 0.25  # of the typed layers, weak typing
LEAST_OF_QUANTISED = 0.5  # int8 layers of the engine per Quantize layer of the network, weak typing
MOST_OF_WEIGHTS = 0.7  # of the float32 weights' bytes may a plan of half the precision have
WEIGHTS_THAT_SHOW = 16 << 20  # bytes; below, kernels outweigh weights in a plan

_TYPES = (
    ("bf16", r"bf16|bfloat"),
    ("fp8", r"fp8"),
    ("fp16", r"fp16|half"),
    ("fp32", r"fp32|float|tf32"),
    ("int8", r"(?<!u)int8"),  # uint8 is what frames are, no precision
)
_MOVES = ("constant", "reformat", "noop", "shuffle", "signal", "wait")  # layer types that compute nothing
_OPAQUE = ("myelin", "foreignnode")


@dataclass(frozen=True)
class Layers:
    """How many layers of an engine compute in each precision."""

    counts: Mapping[str, int]  # "fp16": 12; a layer that reads or makes several counts as its lowest
    untyped: int  # layers that tell no floating type: indices, shapes
    opaque: int  # typed at their edges only
    source: str  # where the counts are from: "engine inspector" or why there are none

    def share(self, precision: str) -> float:
        """Of the typed layers; 0 if there are none."""
        total = sum(self.counts.values())
        return self.counts.get(precision, 0) / total if total else 0.0

    @classmethod
    def read(cls, data: Fields) -> Layers:
        """Check and build. Raises ValueError."""
        counts = data.mapping("counts")
        if not all(isinstance(value, int) for value in counts.values()):
            raise ValueError(f"{data.place('counts')}: expected numbers of layers")
        layers = cls(counts, data.integer("untyped"), data.integer("opaque"), data.text("source"))
        data.done()
        return layers


def read_layers(text: str) -> Layers:
    """Count the layers of the inspector's JSON; empty counts, with the reason, for what cannot be read."""
    try:
        found = json.loads(text)["Layers"]
        layers = [layer for layer in found if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError) as error:
        return Layers({}, 0, 0, f"the inspector's answer cannot be read: {error!r}")
    if not layers:
        return Layers({}, len(found), 0, "the inspector gave layer names only")
    counts: Counter[str] = Counter()
    untyped = opaque = 0
    for layer in layers:
        if _kind(layer).startswith(_MOVES):
            continue
        precision = layer_precision(layer)
        opaque += _is_opaque(layer)
        if precision is None:
            untyped += 1
        else:
            counts[precision] += 1
    return Layers(dict(counts), untyped, opaque, "engine inspector")


def layer_precision(layer: Mapping[str, Any]) -> str | None:
    """The lowest floating precision (or int8) that a layer names, reads or makes; None: none of these."""
    stated = [str(layer["Precision"])] if "Precision" in layer else list(_tensor_types(layer))
    found = {_named(text) for text in stated}
    return next((name for name in ("int8", "fp8", "fp16", "bf16", "fp32") if name in found), None)


def type_of(precision: str) -> str:
    """The type that an engine of that precision must compute in: both INT8 forms mean integers."""
    return "int8" if precision.startswith("int8") else precision


def judge(job: Job, layers: Layers, network: Mapping[str, int], plan_bytes: int, weights: int) -> Verdict:
    """Whether the job's precision happened; `network` counts the types of the parsed network's layers."""
    asked = type_of(job.variant.precision)
    if job.typing == "strong":
        happened = set(network) <= {"fp32"} if asked == "fp32" else network.get(asked, 0) > 0
        return "honoured" if happened else "not honoured"
    if not layers.counts:
        return "not provable" if asked != "fp32" else "honoured"
    if asked == "fp32":
        return "honoured" if set(layers.counts) <= {"fp32"} else "not honoured"
    if asked == "int8":
        wanted = network.get("int8", 0)
        enough = 0 < wanted * LEAST_OF_QUANTISED <= layers.counts.get("int8", 0)
    else:
        enough = layers.share(asked) >= LEAST_SHARE
    if not enough:
        return "not honoured"
    hidden = layers.opaque and weights >= WEIGHTS_THAT_SHOW
    return "not honoured" if hidden and plan_bytes > MOST_OF_WEIGHTS * weights else "honoured"


def require(job: Job, verdict: Verdict, layers: Layers, network: Mapping[str, int]) -> None:
    """Raise PrecisionError unless the precision was honoured."""
    if verdict == "honoured":
        return
    asked = type_of(job.variant.precision)
    counted = ", ".join(f"{count} {name}" for name, count in sorted(layers.counts.items()))
    typed = ", ".join(f"{count} {name}" for name, count in sorted(network.items()))
    raise PrecisionError(
        f"{job.name}: {asked} was asked for and was {verdict}. Layers of the engine: {counted or 'no types'} "
        f"({layers.source}); of the network: {typed or 'no types'}. No engine was written. "
        + (
            "The graph is not what its name says: export it again"
            if job.typing == "strong"
            else "Build --fp32 here, or use TensorRT 10 or newer, where the graph sets the types"
        )
    )


def _tensor_types(layer: Mapping[str, Any]) -> Iterator[str]:
    for tensor in [*_list(layer.get("Outputs")), *_list(layer.get("Inputs"))]:
        for key in ("Format/Datatype", "DataType", "Datatype", "Format"):
            if isinstance(tensor, dict) and isinstance(tensor.get(key), str):
                yield tensor[key]
                break


def _named(text: str) -> str | None:
    """The precision in a description such as "Channel major FP16 format where channel % 8 == 0"."""
    lowered = text.lower()
    return next((name for name, pattern in _TYPES if re.search(pattern, lowered)), None)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _kind(layer: Mapping[str, Any]) -> str:
    return str(layer.get("LayerType", "")).lower()


def _is_opaque(layer: Mapping[str, Any]) -> bool:
    return any(word in f"{_kind(layer)} {layer.get('Name', '')}".lower() for word in _OPAQUE)
