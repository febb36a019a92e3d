"""From a checkpoint to a bundle: plan, answer, trace, bind, write; the old one stays until the last step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from tofe_export import __version__
from tofe_export.builtin_images import builtin_images
from tofe_export.bundle import Bundle
from tofe_export.bundle_writer import BundleWriter
from tofe_export.calibration import int8
from tofe_export.calibration.images import find_images, sample
from tofe_export.calibration.quantizer import Quantizer
from tofe_export.errors import UsageError
from tofe_export.files import sha256_file
from tofe_export.graph.answers import Say, answer, settle_thresholds
from tofe_export.graph.collection import no_collection
from tofe_export.graph.request import Request, variants
from tofe_export.graph.trace import trace
from tofe_export.graph.typing.kernels import require_onnxruntime
from tofe_export.graph.variant_maker import VariantMaker
from tofe_export.inputs import as_fed
from tofe_export.manifest import Manifest, Model, ReferenceInfo, Variant, WeightsFile
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.preprocess import Pixels, apply, load_image, source_pixels
from tofe_export.reference import Reference

BUILTIN = "built-in images"


@dataclass(frozen=True)
class Pictures:
    """Source pixels of the reference, and where they come from."""

    sources: Sequence[Pixels]
    name: str


@dataclass(frozen=True)
class Quantizing:
    """How INT8 variants are made; without pictures, from a calibration that the bundle holds."""

    settings: int8.Settings = field(default_factory=int8.Settings)
    pictures: int8.Pictures | None = None


def pictures_from(folder: Path | None, count: int | None) -> Pictures:
    """Read the reference pictures: a sample of a folder, or the built-in set.

    Raises:
        ImageError: no such folder, no pictures in it, or one that cannot be read.
    """
    if folder is None:
        return Pictures(builtin_images(count or 8, size=320), BUILTIN)
    paths = sample(find_images(folder), count or 16)
    return Pictures([source_pixels(load_image(path)) for path in paths], folder.resolve().name)


def export(
    checkpoint: Checkpoint,
    request: Request,
    target: Path,
    pictures: Pictures | None = None,
    *,
    quantizing: Quantizing | None = None,
    force: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write (or extend) the bundle at `target`.

    `pictures` None keeps an existing bundle's reference images, or takes the built-in set; `quantizing` says
    how INT8 variants are made, if there are any.

    Raises:
        UsageError: the request does not fit the model, or the bundle is another model's and `force` is off.
        MissingExtra: half precision was asked for and onnxruntime is not installed.
        BuildFailed: a graph could not be made; a bug here.
        PrecisionError: a precision that was asked for does not give the model's answers.
        WriteError: the bundle could not be written; what was there is untouched.
    """
    cost = checkpoint.model.cost()
    planned = variants(cost, request, checkpoint.table, conditioned=checkpoint.model.structure.conditioned)
    base = None if force or not os.path.exists(target / "manifest.json") else Bundle.open(target)
    model = _describe(checkpoint, request)
    if any(variant.precision != "fp32" for variant in planned):
        require_onnxruntime()  # the rounding evaluator runs on it; better said now than after the trace
    quantizing = quantizing or Quantizing()
    if any(variant.precision in int8.FORMS for variant in planned) and quantizing.pictures is None:
        int8.require_calibration(base)
    if base is not None:
        _refuse_to_mix(base, model, checkpoint)
        base.check(base.manifest.variants)  # damage must not be given a fresh hash
    reference, source = _start_reference(checkpoint, base, pictures)
    with BundleWriter(target, base) as writer, no_collection():
        planned = settle_thresholds(checkpoint, planned, reference, say)
        floats = [variant for variant in planned if variant.precision not in int8.FORMS]
        reference, noise = answer(checkpoint, request, floats, reference, say)
        say("tracing")
        frames = checkpoint.preprocessing if model.takes_frames else None
        template = trace(checkpoint.model, writer.path("variants/weights").parent, request.output, frames)
        images = as_fed(reference.images, model, checkpoint.preprocessing)
        maker = VariantMaker(writer, checkpoint, template, reference, images, noise, request.float32, say)
        made = maker.make_all(floats)
        known = [*made, *(base.manifest.variants if base else ())]
        jobs = [
            int8.make_job(v.name, v.precision, v.targets, _named(known, v.twin), known)
            for v in planned
            if v.precision in int8.FORMS
        ]
        quantizer = _quantizer(writer, model, checkpoint, quantizing, say)
        quantized, more_weights = quantizer.make(jobs)
        made, written = [*made, *quantized], [*maker.weights, *more_weights]
        reference.save(writer.path("reference.npz"))
        manifest = _manifest(writer, checkpoint, model, written, made, base, reference, source)
        return writer.commit(manifest)


def _named(variants: Sequence[Variant], name: str) -> Variant:
    return next(variant for variant in variants if variant.name == name)


def _quantizer(
    writer: BundleWriter, model: Model, checkpoint: Checkpoint, quantizing: Quantizing, say: Say
) -> Quantizer:
    return Quantizer(
        writer.path("variants/weights").parent.parent,
        writer.shown,
        writer.path,
        checkpoint.preprocessing.to_json(),
        model.output,
        quantizing.settings,
        quantizing.pictures,
        say,
    )


def _describe(checkpoint: Checkpoint, request: Request) -> Model:
    tofe = checkpoint.model
    backbone, structure = tofe.backbone, tofe.structure
    return Model(
        backbone=backbone.name,
        arguments=backbone.arguments,
        checkpoint_sha256=checkpoint.sha256,
        trained=checkpoint.trained,
        selector=structure.selector,
        approximator=structure.approximator,
        reuse=structure.reuse,
        locations=structure.locations,
        tokens=backbone.tokens,
        prefix=backbone.prefix,
        grid=backbone.grid,
        num_classes=backbone.num_classes,
        output="tokens" if request.output == "tokens" else backbone.output,
        input=request.input,
    )


def _refuse_to_mix(base: Bundle, model: Model, checkpoint: Checkpoint) -> None:
    """A bundle holds one model: refuse to add variants of another."""
    old, differs = base.manifest, []
    if old.model.checkpoint_sha256 != model.checkpoint_sha256:
        differs.append("the checkpoint")
    if old.model.output != model.output:
        differs.append(f"the output ({old.model.output} there, {model.output} here)")
    if old.model.input != model.input:
        differs.append(f"the input ({old.model.input} there, {model.input} here)")
    if old.preprocessing != checkpoint.preprocessing:
        differs.append("the preprocessing")
    if differs:
        raise UsageError(
            f"{base.path} holds another export: {' and '.join(differs)} differ. Replace it with --force, "
            "or write elsewhere with --out DIR"
        )


def _start_reference(
    checkpoint: Checkpoint, base: Bundle | None, pictures: Pictures | None
) -> tuple[Reference, str]:
    """Reference images without answers, or the existing reference."""
    if base is not None and pictures is None:
        return base.reference(), base.manifest.reference.source
    chosen = pictures or pictures_from(None, None)
    prepared = np.stack([apply(source, checkpoint.preprocessing) for source in chosen.sources])
    reference = Reference(prepared, chosen.sources, {})
    if base is None:
        return reference, chosen.name
    if reference.images_sha256() != base.manifest.reference.images_sha256:
        raise UsageError(
            f"{base.path} has other reference images (from {base.manifest.reference.source}): leave --images "
            "out to keep them, replace the bundle with --force, or write elsewhere with --out DIR"
        )
    return base.reference(), base.manifest.reference.source


def _manifest(
    writer: BundleWriter,
    checkpoint: Checkpoint,
    model: Model,
    written: Sequence[WeightsFile],
    made: Sequence[Variant],
    base: Bundle | None,
    reference: Reference,
    source: str,
) -> Manifest:
    """The new manifest: what the base holds, with variants of the same name replaced."""
    path = writer.existing("reference.npz")
    assert path is not None  # written just before
    names = {variant.name for variant in made}
    kept = [v for v in base.manifest.variants if v.name not in names] if base else []
    weights = {w.file: w for w in (*(base.manifest.weights if base else ()), *written)}
    used = {name for variant in (*kept, *made) for name in variant.weights}
    return Manifest(
        tool_version=__version__,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=model,
        cost=checkpoint.model.cost(),
        preprocessing=checkpoint.preprocessing,
        classes=checkpoint.classes,
        reference=ReferenceInfo(
            "reference.npz", sha256_file(path), reference.images_sha256(), source, len(reference)
        ),
        weights=tuple(w for name, w in weights.items() if name in used),
        variants=(*kept, *made),
    )
