"""A copy of an exported bundle that is about to be damaged, and the tools to damage it silently.

Silent: the bundle opens, every hash is right, the graphs load, run and give finite numbers. What a tool
inserts into a graph takes over the name of the tensor it changes, so the rest of the graph, outputs included,
reads the changed one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from tofe_export.bundle import Bundle
from tofe_export.files import sha256_file
from tofe_export.graph.trace import Template, trace
from tofe_export.manifest import Variant
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.runtime.batching import run_all, run_batches
from tofe_export.runtime.onnxruntime import OnnxRuntimeSession
from tofe_export.verify.compare import worst

Array = npt.NDArray[Any]
ROUNDING = 1e-5  # of the output's range: what two runtimes may differ by


@dataclass(frozen=True)
class Base:
    """A correct bundle, the checkpoint behind it, and a stranger: the same model with other weights."""

    label: str
    checkpoint: Checkpoint
    bundle: Bundle
    stranger: Callable[[], Checkpoint]

    @cached_property
    def template(self) -> Template:
        """The model traced again; its weights are the bundle's own."""
        with tempfile.TemporaryDirectory() as folder:
            template = trace(self.checkpoint.model, Path(folder))
        assert f"variants/{template.weights_file}" in {w.file for w in self.bundle.manifest.weights}
        return template


@dataclass(frozen=True)
class Fault:
    """What was planted. `stage` (from 1) is the selection at which it shows first; None: not at one."""

    where: str
    what: str
    exact: frozenset[str]
    fitting: frozenset[str] = frozenset()
    stage: int | None = None


@dataclass(frozen=True)
class Scene:
    """A copy of a bundle that is about to be damaged, and the variant that will be looked at."""

    base: Base
    folder: Path
    variant: Variant
    product_only: bool
    random: Random

    @property
    def stages(self) -> int:
        """S."""
        return len(self.base.bundle.manifest.model.locations)

    @property
    def where(self) -> str:
        """Which graphs a fault of the graph is planted in."""
        return "product" if self.product_only else "product and probe"

    @property
    def product(self) -> Path:
        """The graph that users run."""
        return self.folder / self.variant.file

    @property
    def graphs(self) -> list[Path]:
        """The files that a fault of the graph is planted in."""
        assert self.variant.probe is not None  # only variants with selections are drawn
        return [self.product] if self.product_only else [self.product, self.folder / self.variant.probe.file]

    def fault(self, what: str, exact: str, *fitting: str, stage: int | None = None) -> Fault:
        """A fault of the graph; in the product alone, pointing at the product graph fits it."""
        fits = {*fitting, "product-only"} if self.product_only else {*fitting}
        return Fault(self.where, what, frozenset({exact}), frozenset(fits), stage)

    def edit(self, change: Callable[[onnx.GraphProto], None]) -> None:
        """Change the graphs; their large weights stay in the weights file."""
        for path in self.graphs:
            model = onnx.load(path, load_external_data=False)
            change(model.graph)
            path.write_bytes(model.SerializeToString())

    def edit_manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the manifest as plain JSON."""
        path = self.folder / "manifest.json"
        data = json.loads(path.read_text())
        change(data)
        path.write_text(json.dumps(data))

    def refresh_hashes(self) -> None:
        """Make every hash right again, so that only the answers can tell."""
        self.edit_manifest(self._refresh)

    def shows_at(self, block: int) -> int:
        """The first selection behind a block, from 1; S + 1: the output."""
        return 1 + sum(location <= block for location in self.base.bundle.manifest.model.locations)

    def diagnosed_at(self, stage: int) -> int:
        """The stage that a diagnosis carries: faults behind the last selection count as its own."""
        return min(stage, self.stages)

    def activations(self, tensor: str) -> Array:
        """All values of a tensor of the product graph on the reference images, flat."""
        model = onnx.load(self.product, load_external_data=False)
        model.graph.output.append(next(info for info in model.graph.value_info if info.name == tensor))
        path = self.product.with_name("measure.onnx")
        path.write_bytes(model.SerializeToString())
        images = self.base.bundle.reference().images
        with OnnxRuntimeSession(path) as session:
            found = [outputs[tensor].ravel() for _, outputs in run_batches(session, images, batch=3)]
        path.unlink()
        return np.concatenate(found)

    def changes_answers(self) -> bool:
        """Whether the product answers otherwise than the reference says, beyond rounding."""
        reference = self.base.bundle.reference()
        with OnnxRuntimeSession(self.product) as session:
            found = run_all(session, reference.images, batch=3)[self.base.bundle.manifest.model.output]
        return bool((worst(found, reference.output(self.variant.reference)) > ROUNDING).any())

    def _refresh(self, manifest: dict[str, Any]) -> None:
        for variant in manifest["variants"]:
            for item in (variant, variant["probe"]):
                if item:
                    item["sha256"] = sha256_file(self.folder / item["file"])
        for item in (*manifest["weights"], manifest["reference"]):
            item["sha256"] = sha256_file(self.folder / item["file"])


def insert_after(
    graph: onnx.GraphProto, tensor: str, op: str, *extra: Array, axis: int | None = None
) -> None:
    """Let `op`(tensor, *extra) take the place of `tensor`, which keeps its name, graph outputs included."""
    at, producer = next((i, node) for i, node in enumerate(graph.node) if tensor in node.output)
    producer.output[list(producer.output).index(tensor)] = f"{tensor}/right"
    graph.node.insert(at + 1, _node(graph, op, f"{tensor}/right", tensor, *extra, axis=axis))


def insert_before(
    graph: onnx.GraphProto, node: onnx.NodeProto, at: int, op: str, *extra: Array, axis: int | None = None
) -> None:
    """Let `node` read `op`(its input `at`, *extra) instead."""
    place = next(i for i, other in enumerate(graph.node) if other.name == node.name)
    tensor = node.input[at]
    node.input[at] = f"{tensor}/{op}/{node.name}"
    graph.node.insert(place, _node(graph, op, tensor, node.input[at], *extra, axis=axis))


def _node(
    graph: onnx.GraphProto, op: str, source: str, target: str, *extra: Array, axis: int | None = None
) -> onnx.NodeProto:
    names = [f"{target}/{op}/{number}" for number in range(len(extra))]
    graph.initializer.extend(numpy_helper.from_array(*pair) for pair in zip(extra, names, strict=True))
    node = onnx.helper.make_node(op, [source, *names], [target], name=f"{target}/{op}")
    if axis is not None:
        node.attribute.append(onnx.helper.make_attribute("axis", axis))
    return node


def in_scope(graph: onnx.GraphProto, scope: str) -> list[onnx.NodeProto]:
    """The nodes whose names begin with `scope`, in order."""
    return [node for node in graph.node if node.name.startswith(scope)]


def type_of(graph: onnx.GraphProto, tensor: str) -> onnx.TypeProto.Tensor:
    """Element type and shape of a tensor that a node computes."""
    known = next(info for info in (*graph.value_info, *graph.output) if info.name == tensor)
    tensor_type: onnx.TypeProto.Tensor = known.type.tensor_type
    return tensor_type
