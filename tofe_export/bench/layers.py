"""Where the time of one run goes: per layer, summed per module and per operator.

The runtime's own profile says it: ONNX Runtime times every kernel, TensorRT every layer. Profiling costs time
itself and keeps a runtime from recording a CUDA graph, so it happens in runs of its own, never in those that
a ratio is made of; the whole profiled run stands beside the sum of its layers, and what lies between them is
shown as such. Every figure is the median over the runs, and ONNX Runtime counts whole microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from tofe_export.bench.graph_file import Node, read_nodes
from tofe_export.bench.modules import OTHER, Modules
from tofe_export.bench.sides import How, feeds_of
from tofe_export.bench.timing import Feeds
from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError
from tofe_export.inputs import as_fed
from tofe_export.manifest import Variant

WARMUP, RUNS = 5, 30
OPAQUE = "tensorrt"
"""The provider of ONNX Runtime that has no layers to show."""

Facts = dict[str, Any]


@dataclass(frozen=True)
class Layer:
    """One kernel or layer as the runtime names it; milliseconds per run."""

    name: str
    operator: str
    module: str
    ms: float


@dataclass(frozen=True)
class Share:
    """Layers that belong together: a module, or an operator."""

    name: str
    ms: float
    layers: int


@dataclass(frozen=True)
class Profile:
    """One variant's profile. `whole_ms`: of a profiled run; None where the runtime does not say."""

    variant: str
    batch: int
    source: str
    runs: int
    whole_ms: float | None
    layers: tuple[Layer, ...]
    order: tuple[str, ...]
    """Modules in execution order."""

    @property
    def sum_ms(self) -> float:
        """All layers together."""
        return sum(layer.ms for layer in self.layers)

    @property
    def modules(self) -> list[Share]:
        """Per module, in execution order; what cannot be told comes last."""
        known = {name: place for place, name in enumerate(self.order)}
        shares = _shares((layer.module, layer.ms) for layer in self.layers)
        return sorted(shares, key=lambda share: (share.name == OTHER, known.get(_first(share.name), -1)))

    @property
    def operators(self) -> list[Share]:
        """Per operator, the largest first."""
        return sorted(_shares((layer.operator, layer.ms) for layer in self.layers), key=lambda s: -s.ms)

    def to_json(self) -> Facts:
        """The profile for machines."""
        return {
            "variant": self.variant,
            "batch": self.batch,
            "source": self.source,
            "runs": self.runs,
            "whole_ms": self.whole_ms,
            "sum_ms": self.sum_ms,
            "modules": [asdict(share) for share in self.modules],
            "operators": [asdict(share) for share in self.operators],
            "layers": [asdict(layer) for layer in self.layers],
        }


def require_layers(how: How) -> None:
    """Raise UsageError where a provider hides its layers."""
    if how.backend == "onnxruntime" and how.provider == OPAQUE:
        raise UsageError(
            "--layers: ONNX Runtime's TensorRT provider compiles a graph into a few opaque nodes. Use "
            "--provider cuda, or engines: --backend tensorrt"
        )


def profile(
    bundle: Bundle, variant: Variant, how: How, runs: int = RUNS, on_run: Callable[[], None] = lambda: None
) -> Profile:
    """Open the variant once more, with its runtime's profiler on, and run it.

    Raises what opening and running raise, and UsageError where a provider hides its layers.
    """
    require_layers(how)
    bundle.check([variant], reference=True)
    images = as_fed(bundle.reference().images, bundle.manifest.model, bundle.manifest.preprocessing)
    modules, batch = Modules(read_nodes(bundle.file(variant.file))), how.batch_of(variant)
    if how.backend == "tensorrt":
        from tofe_export.bench.layers_tensorrt import record
    else:
        from tofe_export.bench.layers_onnxruntime import record
    found = record(bundle, variant, how, lambda session: feeds_of(session, images, batch), runs, on_run)
    placed = modules.place(found.graph)
    layers = tuple(_layer(one, modules, placed) for one in found.layers)
    whole = median(found.whole_ms) if found.whole_ms else None
    return Profile(variant.name, batch, found.source, runs, whole, layers, tuple(modules.order))


@dataclass(frozen=True)
class Recorded:
    """One layer of a runtime: what it calls it, and milliseconds of each run.

    `listed`: text that lists the nodes it was made of; None for a node of the runtime's own graph.
    """

    name: str
    operator: str
    ms: Sequence[float]
    listed: str | None = None


@dataclass(frozen=True)
class Recording:
    """What a runtime's profiler said. `graph`: the runtime's own, where it tells."""

    source: str
    layers: Sequence[Recorded]
    whole_ms: Sequence[float]
    graph: Sequence[Node] = ()


MakeFeeds = Callable[[Any], list[Feeds]]


def _layer(one: Recorded, modules: Modules, placed: Mapping[str, str]) -> Layer:
    operator, module = one.operator or OTHER, placed.get(one.name, OTHER)
    if one.listed is not None and (found := modules.named(one.listed)) is not None:
        module, operator = found
    return Layer(one.name, operator, module, median(one.ms))


def _shares(rows: Iterable[tuple[str, float]]) -> list[Share]:
    found: dict[str, list[float]] = {}
    for name, ms in rows:
        found.setdefault(name, []).append(ms)
    return [Share(name, sum(times), len(times)) for name, times in found.items()]


def _first(name: str) -> str:
    """Of a layer that spans modules, the first."""
    return name.partition(" .. ")[0]
