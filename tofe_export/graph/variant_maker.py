"""Make the graphs of planned variants: bind and lower from the template, type if asked, write, describe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx

from tofe_export import __version__
from tofe_export.bundle_writer import BundleWriter
from tofe_export.calibration.report import provenance
from tofe_export.errors import BuildFailed
from tofe_export.files import sha256_file, write_atomic
from tofe_export.graph.answers import Say
from tofe_export.graph.bind import Binding, bind
from tofe_export.graph.macs import count_macs
from tofe_export.graph.passes.downgrade_opset import TARGET_OPSET
from tofe_export.graph.request import Planned
from tofe_export.graph.static_form import check_static
from tofe_export.graph.trace import Template
from tofe_export.graph.typing.half import HALVES
from tofe_export.graph.typing.kernels import Kernels
from tofe_export.graph.typing.settle import Settled, Settler
from tofe_export.graph.typing.typed import held_by_name
from tofe_export.graph.typing.weights import files_of, write_half_weights
from tofe_export.manifest import DYNAMIC, File, Variant, WeightsFile
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.tofe import condition_of
from tofe_export.reference import Reference
from tofe_export.verify.case import Case, case_for
from tofe_export.verify.compare import Array

MACS_TOLERANCE = 0.01
FOLDER = "variants"


@dataclass
class VariantMaker:
    """Writes variants of one template into a bundle."""

    writer: BundleWriter
    checkpoint: Checkpoint
    template: Template
    reference: Reference
    """With the answers to all planned variants."""
    images: Array
    """Its images as the graphs take them."""
    noise: Mapping[str, float]
    """How much of the answers is rounding, by their key."""
    float32: tuple[str, ...] = ()
    """Values of `--float32`."""
    say: Say = lambda text: None
    weights: list[WeightsFile] = field(default_factory=list)
    """All weights files written so far."""
    _bound: dict[Binding, tuple[onnx.ModelProto, float | None]] = field(default_factory=dict)
    """Float32 graphs made so far, and the GMACs counted in them (adaptive: not known)."""
    _kernels: Kernels | None = None
    _settlers: dict[str, Settler] = field(default_factory=dict)
    _settled: dict[object, Settled] = field(default_factory=dict)

    def __post_init__(self) -> None:
        file = f"{FOLDER}/{self.template.weights_file}"
        self.weights.append(WeightsFile(file, self.template.weights_sha256, self.template.weights_bytes))

    def make_all(self, planned: Sequence[Planned]) -> list[Variant]:
        """All of them, in their order. Raises as `make` does.

        Dense ones are made last: what is computed to type them begins as that of the others, which keep it.
        """
        made = {one.name: self.make(one) for one in sorted(planned, key=lambda one: one.lowering == "dense")}
        return [made[one.name] for one in planned]

    def make(self, planned: Planned) -> Variant:
        """Write product and probe, and say what they are.

        Raises:
            BuildFailed: a graph could not be made; a bug here.
            PrecisionError: a typed graph does not give the model's answers.
            UsageError: `float32` names nodes that do not exist.
        """
        product = self._bind(planned, probe=False)
        probe = None if planned.lowering == "dense" else self._bind(planned, probe=True)
        if planned.precision != "fp32":
            return self._make_typed(planned, product, probe)
        self.say(f"lowering {planned.name}")
        extra: dict[str, Any] = {}
        if planned.lowering != "adaptive":
            extra["hold_float32"] = held_by_name(product)
        if planned.lowering != "adaptive" and probe is not None:
            known = {node.name for node in product.graph.node}
            extra["hold_float32_probe"] = [name for name in held_by_name(probe) if name not in known]
        return self._write(planned, product, probe, (self.weights[0].file,), extra)

    def _make_typed(
        self, planned: Planned, product: onnx.ModelProto, probe: onnx.ModelProto | None
    ) -> Variant:
        settler = self._settler(planned.precision)
        settled = self._settle(planned, settler)
        self.say(f"typing {planned.name}")
        _, typed, float32 = settler.apply(settled, product)
        typed_probe = None if probe is None else settler.apply(settled, probe).graph
        graphs = [typed] if typed_probe is None else [typed, typed_probe]
        for graph in graphs:
            adaptive, dynamic = planned.lowering == "adaptive", planned.batch == DYNAMIC
            check_static(graph, adaptive=adaptive, dynamic_batch=dynamic)
        files = sorted({f"{FOLDER}/{name}" for graph in graphs for name in files_of(graph)})
        extra = {"twin": planned.twin, "float32_nodes": float32, "evaluated": settled.evaluated}
        return self._write(planned, typed, typed_probe, tuple(files), extra)

    def _settler(self, precision: str) -> Settler:
        if precision not in self._settlers:
            half, folder = HALVES[precision], self.writer.path(f"{FOLDER}/weights").parent
            self.say(f"weights in {half.name}")
            weights = write_half_weights(self.template.model, folder, half)
            self.weights.append(WeightsFile(f"{FOLDER}/{weights.file}", weights.sha256, weights.bytes))
            self._kernels = self._kernels or Kernels(TARGET_OPSET)
            self._settlers[precision] = Settler(folder, half, weights, self._kernels, self.float32, self.say)
        return self._settlers[precision]

    def _settle(self, planned: Planned, settler: Settler) -> Settled:
        """Once per budget and lowering: on the graph of batch 1, which computes what the others compute."""
        single = replace(planned, name=f"{planned.name.rpartition('-b')[0]}-b1", batch=1)
        key = (single.precision, single.lowering, single.reference)
        if key not in self._settled:
            product = self._bind(single, probe=False)
            probe = None if single.lowering == "dense" else self._bind(single, probe=True)
            self._settled[key] = settler.settle(self._case(single), product, probe)
        return self._settled[key]

    def _case(self, planned: Planned) -> Case:
        tofe = self.checkpoint.model
        return case_for(
            self._describe(planned, File("", ""), None, (), {}),
            self.reference,
            output=self.template.output,
            tokens=tofe.backbone.tokens,
            locations=tofe.structure.locations,
            depth=tofe.cost().depth,
            images=self.images,
        )

    def _bind(self, planned: Planned, *, probe: bool) -> onnx.ModelProto:
        """The float32 graph; its cost is checked against the manifest's."""
        tofe = self.checkpoint.model
        binding = Binding(
            lowering=planned.lowering,
            tokens=tofe.backbone.tokens,
            prefix=tofe.backbone.prefix,
            keep=planned.keep,
            thresholds=(planned.plan.thresholds or ()) if planned.plan else (),
            batch=None if planned.batch == DYNAMIC else int(planned.batch),
            reuse=tofe.structure.reuse,
            stages=tofe.stages,
            condition=condition_of(tofe.cost(), planned.condition_gmacs),
            probe=probe,
        )
        if binding not in self._bound:  # every precision starts from the same graph
            model = bind(self.template, binding, self._metadata(planned))
            counted = None if planned.lowering == "adaptive" else count_macs(model, binding.batch or 1) / 1e9
            self._bound[binding] = model, counted
        model, counted = self._bound[binding]
        if counted is not None:
            _require_cost(planned, counted)
        return model

    def _write(
        self,
        planned: Planned,
        product: onnx.ModelProto,
        probe: onnx.ModelProto | None,
        weights: tuple[str, ...],
        extra: Mapping[str, Any],
    ) -> Variant:
        made = self._write_graph(product, planned, "onnx")
        opened = None if probe is None else self._write_graph(probe, planned, "probe.onnx")
        return self._describe(planned, made, opened, weights, extra)

    def _write_graph(self, model: onnx.ModelProto, planned: Planned, suffix: str) -> File:
        """Write a graph under the variant's name; precisions and batches may share `model`."""
        own = onnx.ModelProto()
        own.CopyFrom(model)
        own.graph.name = planned.name
        onnx.helper.set_model_props(own, self._metadata(planned))
        relative = f"{FOLDER}/{planned.name}.{suffix}"
        path = self.writer.path(relative)
        write_atomic(path, own.SerializeToString())
        return File(relative, sha256_file(path))

    def _describe(
        self,
        planned: Planned,
        product: File,
        probe: File | None,
        weights: tuple[str, ...],
        extra: Mapping[str, Any],
    ) -> Variant:
        plan = planned.plan
        return Variant(
            name=planned.name,
            file=product.file,
            sha256=product.sha256,
            probe=probe,
            budget_gmacs=plan.budget_gmacs if plan else None,
            gmacs=planned.gmacs,
            gmacs_executed=planned.gmacs_executed,
            keep=planned.keep or None,
            thresholds=plan.thresholds if plan and planned.lowering == "adaptive" else None,
            source=plan.source if plan else "backbone",
            lowering=planned.lowering,
            precision=planned.precision,
            batch=planned.batch,
            opset=TARGET_OPSET,
            targets=planned.targets,
            reference=planned.reference,
            rounding=self.noise[planned.reference],
            weights=weights,
            extra={**extra, **provenance(self.checkpoint.history, plan)},
        )

    def _metadata(self, planned: Planned) -> dict[str, str]:
        """What the ONNX file says about itself."""
        backbone = self.checkpoint.model.backbone
        return {
            "tofe.version": __version__,
            "tofe.variant": planned.name,
            "tofe.backbone": backbone.name,
            "tofe.checkpoint_sha256": self.checkpoint.sha256,
            "tofe.trained": str(self.checkpoint.trained).lower(),
            "tofe.lowering": planned.lowering,
            "tofe.precision": planned.precision,
            "tofe.batch": str(planned.batch),
            "tofe.keep": ",".join(map(str, planned.keep)),
            "tofe.gmacs": f"{planned.gmacs:.4f}",
            "tofe.gmacs_executed": f"{planned.gmacs_executed:.4f}",
            "tofe.output": self.template.output,
        }


def _require_cost(planned: Planned, counted: float) -> None:
    claimed = planned.gmacs_executed
    if abs(counted - claimed) > MACS_TOLERANCE * claimed:
        raise BuildFailed(
            f"{planned.name} runs {counted:.4f} GMACs, and the cost model says {claimed:.4f}: they "
            f"must agree within {MACS_TOLERANCE:.0%}"
        )
