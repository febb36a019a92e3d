"""From a checkpoint to a bundle: plan, answer, trace, bind, write; the old one stays until the last step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from tofe_export import __version__
from tofe_export.builtin_images import builtin_images
from tofe_export.bundle import Bundle
from tofe_export.bundle_writer import BundleWriter
from tofe_export.calibration.images import find_images, sample
from tofe_export.errors import BuildFailed, UsageError
from tofe_export.files import sha256_file, write_atomic
from tofe_export.graph.answers import Say, answer, settle_thresholds
from tofe_export.graph.bind import Binding, bind
from tofe_export.graph.macs import count_macs
from tofe_export.graph.passes.downgrade_opset import TARGET_OPSET
from tofe_export.graph.request import Planned, Request, variants
from tofe_export.graph.trace import Template, trace
from tofe_export.manifest import DYNAMIC, File, Manifest, Model, ReferenceInfo, Variant, WeightsFile
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.preprocess import Pixels, apply, load_image, source_pixels
from tofe_export.reference import Reference

BUILTIN = "built-in images"
MACS_TOLERANCE = 0.01


@dataclass(frozen=True)
class Pictures:
    """Source pixels of the reference, and where they come from."""

    sources: Sequence[Pixels]
    name: str


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
    force: bool = False,
    say: Say = lambda text: None,
) -> Bundle:
    """Write (or extend) the bundle at `target`.

    `pictures` None keeps an existing bundle's reference images, or takes the built-in set.

    Raises:
        UsageError: the request does not fit the model, or the bundle is another model's and `force` is off.
        BuildFailed: a graph could not be made; a bug here.
        WriteError: the bundle could not be written; what was there is untouched.
    """
    cost = checkpoint.model.cost()
    planned = variants(cost, request, checkpoint.table)
    base = None if force or not (target / "manifest.json").exists() else Bundle.open(target)
    model = _describe(checkpoint, request)
    if base is not None:
        _refuse_to_mix(base, model, checkpoint)
        base.check(base.manifest.variants)  # damage must not be given a fresh hash
    reference, source = _start_reference(checkpoint, base, pictures)
    with BundleWriter(target, base) as writer:
        planned = settle_thresholds(checkpoint, planned, reference, say)
        reference, noise = answer(checkpoint, request, planned, reference, say)
        say("tracing")
        template = trace(checkpoint.model, writer.path("variants/weights").parent, request.output)
        made = []
        for variant in planned:
            say(f"lowering {variant.name}")
            made.append(_write_variant(writer, checkpoint, template, variant, noise[variant.reference]))
        reference.save(writer.path("reference.npz"))
        manifest = _manifest(writer, checkpoint, model, template, made, base, reference, source)
        return writer.commit(manifest)


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
    )


def _refuse_to_mix(base: Bundle, model: Model, checkpoint: Checkpoint) -> None:
    """A bundle holds one model: refuse to add variants of another."""
    old, differs = base.manifest, []
    if old.model.checkpoint_sha256 != model.checkpoint_sha256:
        differs.append("the checkpoint")
    if old.model.output != model.output:
        differs.append(f"the output ({old.model.output} there, {model.output} here)")
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


def _write_variant(
    writer: BundleWriter, checkpoint: Checkpoint, template: Template, variant: Planned, noise: float
) -> Variant:
    product = _write_graph(writer, checkpoint, template, variant, probe=False)
    probe = None
    if variant.lowering != "dense":
        probe = _write_graph(writer, checkpoint, template, variant, probe=True)
    plan = variant.plan
    return Variant(
        name=variant.name,
        file=product.file,
        sha256=product.sha256,
        probe=probe,
        budget_gmacs=plan.budget_gmacs if plan else None,
        gmacs=variant.gmacs,
        gmacs_executed=variant.gmacs_executed,
        keep=variant.keep or None,
        thresholds=plan.thresholds if plan and variant.lowering == "adaptive" else None,
        source=plan.source if plan else "backbone",
        lowering=variant.lowering,
        precision=variant.precision,
        batch=variant.batch,
        opset=TARGET_OPSET,
        targets=variant.targets,
        reference=variant.reference,
        rounding=noise,
        weights=(f"variants/{template.weights_file}",),
    )


def _write_graph(
    writer: BundleWriter, checkpoint: Checkpoint, template: Template, variant: Planned, *, probe: bool
) -> File:
    """Bind one graph, check its cost against the manifest's, and write it."""
    tofe = checkpoint.model
    binding = Binding(
        lowering=variant.lowering,
        tokens=tofe.backbone.tokens,
        prefix=tofe.backbone.prefix,
        keep=variant.keep,
        thresholds=(variant.plan.thresholds or ()) if variant.plan else (),
        batch=None if variant.batch == DYNAMIC else int(variant.batch),
        reuse=tofe.structure.reuse,
        stages=tofe.stages,
        probe=probe,
    )
    model = bind(template, binding, _metadata(checkpoint, variant, template))
    if variant.lowering != "adaptive":
        counted, claimed = count_macs(model, binding.batch or 1) / 1e9, variant.gmacs_executed
        if abs(counted - claimed) > MACS_TOLERANCE * claimed:
            raise BuildFailed(
                f"{variant.name} runs {counted:.4f} GMACs, and the cost model says {claimed:.4f}: they must "
                f"agree within {MACS_TOLERANCE:.0%}"
            )
    relative = f"variants/{variant.name}{'.probe' if probe else ''}.onnx"
    path = writer.path(relative)
    write_atomic(path, model.SerializeToString())
    return File(relative, sha256_file(path))


def _metadata(checkpoint: Checkpoint, variant: Planned, template: Template) -> dict[str, str]:
    """What the ONNX file says about itself."""
    backbone = checkpoint.model.backbone
    return {
        "tofe.version": __version__,
        "tofe.variant": variant.name,
        "tofe.backbone": backbone.name,
        "tofe.checkpoint_sha256": checkpoint.sha256,
        "tofe.trained": str(checkpoint.trained).lower(),
        "tofe.lowering": variant.lowering,
        "tofe.precision": variant.precision,
        "tofe.batch": str(variant.batch),
        "tofe.keep": ",".join(map(str, variant.keep)),
        "tofe.gmacs": f"{variant.gmacs:.4f}",
        "tofe.gmacs_executed": f"{variant.gmacs_executed:.4f}",
        "tofe.output": template.output,
    }


def _manifest(
    writer: BundleWriter,
    checkpoint: Checkpoint,
    model: Model,
    template: Template,
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
    weights = {w.file: w for w in (base.manifest.weights if base else ())}
    file = f"variants/{template.weights_file}"
    weights[file] = WeightsFile(file, template.weights_sha256, template.weights_bytes)
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
