"""ONNX Runtime's profile of a graph: an event per kernel and run, and the graph that it made of ours.

The events carry names and operators and no tensors, and some fused kernels have names that say nothing
("Gelu_token_3"). The optimised graph, which the session writes too, says what such a node reads and makes.
Both lie in a folder that is gone afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tofe_export.bench.graph_file import read_nodes
from tofe_export.bench.layers import WARMUP, MakeFeeds, Recorded, Recording
from tofe_export.bench.sides import How
from tofe_export.bundle import Bundle
from tofe_export.manifest import Variant
from tofe_export.runtime.onnxruntime import OPTIMIZED, OnnxRuntimeSession, Tuning

SOURCE = "ONNX Runtime's profile"
_KERNEL = "_kernel_time"
_RUN = "model_run"

Event = Mapping[str, Any]


def record(
    bundle: Bundle, variant: Variant, how: How, make_feeds: MakeFeeds, runs: int, on_run: Callable[[], None]
) -> Recording:
    """Run the variant under ONNX Runtime's profiler. Raises what opening and running raise."""
    with TemporaryDirectory(prefix="tofe-layers-") as folder:
        tuning = Tuning(how.threads, spinning=how.spinning or how.on_gpu, profile=Path(folder))
        with OnnxRuntimeSession(bundle.file(variant.file), how.provider, tuning) as session:
            feeds = make_feeds(session)
            for number in range(WARMUP + runs):
                session.infer(feeds[number % len(feeds)])
                on_run()
            events = json.loads(session.end_profiling().read_text(encoding="utf-8"))
        graph = read_nodes(Path(folder) / OPTIMIZED)
    return Recording(SOURCE, *read_events(events, runs), graph)


def read_events(events: Sequence[Event], runs: int) -> tuple[list[Recorded], list[float]]:
    """Kernels in execution order with the milliseconds of the last `runs` runs, and those of whole runs."""
    found: dict[tuple[str, str], tuple[str, list[float]]] = {}
    whole = []
    for event in events:
        name, kind = str(event.get("name", "")), event.get("cat")
        if kind == "Session" and name == _RUN:
            whole.append(event["dur"] / 1e3)
        elif kind == "Node" and name.endswith(_KERNEL):
            facts = event["args"]
            key = str(facts.get("node_index")), name.removesuffix(_KERNEL)
            found.setdefault(key, (str(facts.get("op_name", "")), []))[1].append(event["dur"] / 1e3)
    layers = [Recorded(name, operator, times[-runs:]) for (_, name), (operator, times) in found.items()]
    return layers, whole[-runs:]
