"""Making a ladder: variants that keep the same count in every stage, from one trace of an untrained model.

They are bound and lowered as every other variant is. What a ladder lacks is PyTorch's answers: it is there to
be measured, its weights are drawn, and answers for a dozen counts would take longer than everything else. So
`verify` has nothing to judge it by and says so, while `lint`, `trt` and `bench` treat it as any bundle.

Half precision is typed by the rules for operators alone, without the magnitudes that an export measures on
pictures: drawn weights have none worth measuring. A trained model may hold a few more nodes in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from tofe_export import __version__
from tofe_export.builtin_images import builtin_images
from tofe_export.bundle import MANIFEST, Bundle
from tofe_export.bundle_writer import BundleWriter
from tofe_export.errors import UnsupportedModel, UsageError
from tofe_export.files import sha256_file, write_atomic
from tofe_export.graph.bind import Binding, bind
from tofe_export.graph.passes.downgrade_opset import TARGET_OPSET
from tofe_export.graph.request import Planned
from tofe_export.graph.trace import Template, trace
from tofe_export.graph.typing.half import HALVES
from tofe_export.graph.typing.islands import required
from tofe_export.graph.typing.magnitudes import UNMEASURED
from tofe_export.graph.typing.typed import held_by_name, type_graph
from tofe_export.graph.typing.weights import HalfWeights, files_of, write_half_weights
from tofe_export.latency.ladder_plan import Ladder, plan
from tofe_export.latency.rungs import LADDER, is_ladder
from tofe_export.manifest import Manifest, Model, ReferenceInfo, Variant, WeightsFile
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.tofe import ToFe
from tofe_export.preprocess import apply
from tofe_export.reference import Reference

_PICTURES = 8
_FOLDER = "variants"
_REFERENCE = "reference.npz"
_NO_ANSWERS = "none: a ladder is measured, not verified"

Say = Callable[[str], None]


def heads_of(model: ToFe) -> int:
    """Attention heads per block. Raises UnsupportedModel where blocks do not say."""
    heads = getattr(getattr(model.backbone.blocks[0], "attn", None), "num_heads", None)
    if not isinstance(heads, int):
        raise UnsupportedModel(
            f"{model.backbone.name}: expected blocks with attn.num_heads, found none, so a latency table "
            "cannot say which models it is about"
        )
    return heads


def make_ladder(checkpoint: Checkpoint, ladder: Ladder, target: Path, say: Say = lambda text: None) -> Bundle:
    """Write a ladder of this model at `target`, where nothing or another ladder may be.

    Raises:
        UsageError: counts, a lowering or a precision that the model cannot have; another bundle is there.
        WriteError: it could not be written, or something else is there.
    """
    _refuse_other(target)
    planned = plan(checkpoint.model, ladder)
    with BundleWriter(target) as writer:
        say("tracing")
        template = trace(checkpoint.model, writer.path(f"{_FOLDER}/weights").parent)
        maker = _Maker(writer, checkpoint.model, template)
        made = [maker.make(variant, say) for variant in planned]
        reference = _pictures(checkpoint)
        path = writer.path(_REFERENCE)
        reference.save(path)
        info = ReferenceInfo(
            _REFERENCE,
            sha256_file(path),
            reference.images_sha256(),
            "built-in images, without answers",
            len(reference),
        )
        return writer.commit(_manifest(checkpoint, template, info, maker.weights, made))


@dataclass
class _Maker:
    """Makes the ladder's variants from one template."""

    writer: BundleWriter
    model: ToFe
    template: Template
    weights: list[WeightsFile] = field(default_factory=list)
    _half: dict[str, HalfWeights] = field(default_factory=dict)

    def __post_init__(self) -> None:
        file = f"{_FOLDER}/{self.template.weights_file}"
        self.weights.append(WeightsFile(file, self.template.weights_sha256, self.template.weights_bytes))
        self._extra = {LADDER: {"heads": heads_of(self.model)}}

    def make(self, planned: Planned, say: Say) -> Variant:
        """Write one graph and describe it."""
        say(f"lowering {planned.name}")
        graph, extra = self._bind(planned), dict[str, Any](self._extra)
        if planned.precision == "fp32":
            extra["hold_float32"] = held_by_name(graph)
        else:
            graph, extra["float32_nodes"] = self._type(graph, planned)
            extra["twin"] = planned.twin
        file = f"{_FOLDER}/{planned.name}.onnx"
        path = self.writer.path(file)
        write_atomic(path, graph.SerializeToString())
        return Variant(
            name=planned.name,
            file=file,
            sha256=sha256_file(path),
            probe=None,
            budget_gmacs=planned.plan.budget_gmacs if planned.plan else None,
            gmacs=planned.gmacs,
            gmacs_executed=planned.gmacs_executed,
            keep=planned.keep or None,
            thresholds=None,
            source="ladder" if planned.plan else "backbone",
            lowering=planned.lowering,
            precision=planned.precision,
            batch=planned.batch,
            opset=TARGET_OPSET,
            targets=planned.targets,
            reference=_NO_ANSWERS,
            weights=tuple(f"{_FOLDER}/{name}" for name in sorted(files_of(graph))),
            extra=extra,
        )

    def _bind(self, planned: Planned) -> onnx.ModelProto:
        tofe = self.model
        binding = Binding(
            lowering=planned.lowering,
            tokens=tofe.backbone.tokens,
            prefix=tofe.backbone.prefix,
            keep=planned.keep,
            batch=int(planned.batch),
            reuse=tofe.structure.reuse,
            stages=tofe.stages,
        )
        return bind(self.template, binding, self._metadata(planned))

    def _type(self, graph: onnx.ModelProto, planned: Planned) -> tuple[onnx.ModelProto, dict[str, str]]:
        half = HALVES[planned.precision]
        if half.precision not in self._half:
            folder = self.writer.path(f"{_FOLDER}/weights").parent
            self._half[half.precision] = written = write_half_weights(self.template.model, folder, half)
            self.weights.append(WeightsFile(f"{_FOLDER}/{written.file}", written.sha256, written.bytes))
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
        held = required(gs.import_onnx(copy), half, UNMEASURED)
        return type_graph(graph, half, held, self._half[half.precision], self._metadata(planned))

    def _metadata(self, planned: Planned) -> dict[str, str]:
        return {
            "tofe.version": __version__,
            "tofe.variant": planned.name,
            "tofe.backbone": self.model.backbone.name,
        }


def _refuse_other(target: Path) -> None:
    """Never replace a bundle of answers by a ladder."""
    if (target / MANIFEST).exists() and not is_ladder(Bundle.open(target)):
        raise UsageError(
            f"{target} holds a bundle that is no ladder, and making one there would replace it: choose "
            "another --ladder DIR"
        )


def _pictures(checkpoint: Checkpoint) -> Reference:
    """The built-in pictures, prepared for this model, without answers."""
    sources = builtin_images(_PICTURES, size=320)
    prepared = np.stack([apply(source, checkpoint.preprocessing) for source in sources])
    return Reference(prepared, sources, {})


def _manifest(
    checkpoint: Checkpoint,
    template: Template,
    reference: ReferenceInfo,
    weights: list[WeightsFile],
    made: list[Variant],
) -> Manifest:
    backbone, structure = checkpoint.model.backbone, checkpoint.model.structure
    model = Model(
        backbone=backbone.name,
        arguments=backbone.arguments,
        checkpoint_sha256=checkpoint.sha256,
        trained=False,
        selector=structure.selector,
        approximator=structure.approximator,
        reuse=structure.reuse,
        locations=structure.locations,
        tokens=backbone.tokens,
        prefix=backbone.prefix,
        grid=backbone.grid,
        num_classes=backbone.num_classes,
        output=template.output,
    )
    return Manifest(
        tool_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=model,
        cost=checkpoint.model.cost(),
        preprocessing=checkpoint.preprocessing,
        classes=None,
        reference=reference,
        weights=tuple(weights),
        variants=tuple(made),
    )
