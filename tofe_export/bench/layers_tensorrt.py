"""TensorRT's profile of an engine: it tells a listener every layer's time after each run.

A layer's name lists the nodes it was made of; one of Myelin's says nothing ("__myl_FcAdd_myl0_3"), and there
the inspector may know (engines are built with detailed verbosity): its "Metadata" names ONNX layers.
A CUDA graph would hide the layers, so none is recorded.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tofe_export.bench.layers import WARMUP, MakeFeeds, Recorded, Recording
from tofe_export.bench.sides import How
from tofe_export.bundle import Bundle
from tofe_export.manifest import Variant
from tofe_export.runtime.tensorrt import open_engine

SOURCE = "TensorRT's profiler"


def record(
    bundle: Bundle, variant: Variant, how: How, make_feeds: MakeFeeds, runs: int, on_run: Callable[[], None]
) -> Recording:
    """Run the variant's engine with a profiler. Raises MissingBackend and BundleError as opening does."""
    times: dict[str, list[float]] = {}
    with open_engine(bundle, variant) as session:
        feeds = make_feeds(session)
        for number in range(WARMUP):
            session.infer(feeds[number % len(feeds)])
        session.report_layers(lambda name, ms: times.setdefault(name, []).append(ms))
        for number in range(runs):
            session.infer(feeds[number % len(feeds)])
            on_run()
        said = read_inspector(session.layer_information())
    layers = []
    for name, found in times.items():
        kind, metadata = said.get(name, ("", ""))
        layers.append(Recorded(name, kind, found, f"{name} {metadata}"))
    return Recording(SOURCE, layers, ())


def read_inspector(text: str) -> dict[str, tuple[str, str]]:
    """Type and metadata of each layer by its name; empty where the engine tells names only."""
    layers: list[Any] = json.loads(text).get("Layers", [])
    return {
        str(layer.get("Name")): (str(layer.get("LayerType", "")), str(layer.get("Metadata", "")))
        for layer in layers
        if isinstance(layer, dict)
    }
