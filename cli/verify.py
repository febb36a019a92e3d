"""`tofe-export verify [BUNDLE]`: parity with PyTorch, without PyTorch; the command that decides.

Parity is the verdict: exit code 0 only if every variant and the preprocessing agree with the reference that
the bundle carries. `--images` adds accuracy, which is no verdict (only the user knows what is enough), and
with `--ckpt` PyTorch's beside it, on the same pictures through the same preprocessing: the one thing here
that needs the host floor, see `pytorch.py`. What can be wrong with the pictures or the checkpoint is found
before the long part begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofe_export.cli import bundles, console, options
from tofe_export.errors import InputError, UsageError, VerdictFailed

if TYPE_CHECKING:
    from tofe_export.bundle import Bundle
    from tofe_export.manifest import Variant
    from tofe_export.runtime.choice import Choice
    from tofe_export.runtime.session import Session
    from tofe_export.verify.accuracy import Accuracy, Labelled
    from tofe_export.verify.report import BundleReport

    Measured = tuple[Variant, Accuracy, Accuracy | None]  # the variant's, and PyTorch's


@click.command("verify", short_help="Parity with PyTorch, without PyTorch.")
@options.bundle
@options.variant_filters
@options.backend
@options.provider
@options.images
@options.num_images
@options.ckpt
@options.json_target
@options.quiet
def command(
    bundle: Path,
    backend: str | None,
    provider: str | None,
    images: Path | None,
    num_images: int | None,
    ckpt: Path | None,
    json_target: str | None,
    **filters: Any,  # noqa: ANN401 - options.variant_filters
) -> None:
    """Compare every variant of BUNDLE with PyTorch's reference answers; exit 0 only if all agree.

    Where BUNDLE has TensorRT engines for this device, these are judged; with ONNX Runtime installed, the
    same graphs run there too, and a failure names the graph, its typing or the compiler. Engines built with
    --probe show which tokens they keep.

    With --images (sub-folders named after classes) top-1 and top-5 accuracy are measured too, and PyTorch's
    beside them where --ckpt names the checkpoint that the bundle was made from.
    """
    if images is None and (ckpt or num_images):
        raise UsageError(
            "--ckpt and --num-images are about accuracy: give the labelled pictures by --images DIR"
        )
    opened = bundles.open_bundle(bundle)
    chosen = bundles.variants_of(opened, filters)
    choice = bundles.choose_backend(opened, chosen, backend, provider, named=bool(filters["names"]))
    labelled = labelled_pictures(opened, images, num_images) if images else []
    open_pytorch = pytorch_sessions(ckpt, opened) if ckpt else None

    report = judge(opened, choice)
    console.say(report.text())
    data = report.to_json() | {"trained": opened.manifest.model.trained, "accuracy": None}
    data["left_out"] = list(choice.left_out)
    if labelled:
        measured = measure(opened, choice, labelled, open_pytorch)
        console.say(f"\n{accuracy_table(measured)}")
        data["accuracy"] = accuracy_json(measured)
    console.emit(data, json_target)
    if not report.passed:
        raise VerdictFailed(verdict(report))


def judge(bundle: Bundle, choice: Choice) -> BundleReport:
    """Parity of the variants, with progress."""
    from tofe_export.verify.run import verify_bundle

    with console.progress("verify", len(choice.variants)) as progress:
        return verify_bundle(
            bundle,
            choice.variants,
            choice.backend,
            choice.provider,
            lambda name: progress.advance(what=name),
        )


def verdict(report: BundleReport) -> str:
    """Name what failed, in one sentence."""
    failed = [variant.name for variant in report.variants if not variant.passed]
    parts = [] if report.preprocessing.passed else ["preprocessing"]
    if failed:
        parts.append(f"{len(failed)} of {len(report.variants)} variants ({', '.join(failed)})")
    return f"no parity with PyTorch: {' and '.join(parts)} failed, see the report"


def labelled_pictures(bundle: Bundle, folder: Path, count: int | None) -> list[Labelled]:
    """Pictures with labels. Raises `UsageError` (no classes in the bundle) and `InputError` (no labels)."""
    from tofe_export.verify.accuracy import labelled_images

    classes = bundle.manifest.classes
    if bundle.manifest.model.output != "logits" or classes is None:
        lack = "class names" if bundle.manifest.model.output == "logits" else "classifier"
        raise UsageError(f"{bundle.path} has no {lack}, so no accuracy can be measured: leave out --images")
    labelled = labelled_images(folder, classes, count)
    if not labelled:
        found = ", ".join(sorted(repr(p.name) for p in folder.iterdir() if p.is_dir())[:3])
        raise InputError(
            f"{folder}: expected sub-folders named after classes, such as {classes[0]!r}, found "
            f"{found or 'no sub-folders'}. Rename them, or leave out --images"
        )
    return labelled


def pytorch_sessions(ckpt: Path, bundle: Bundle) -> Callable[[Variant], Session]:
    """A function that gives PyTorch's session for a variant. Raises `MissingExtra` without torch."""
    from tofe_export.cli.pytorch import open_checkpoint

    return open_checkpoint(ckpt, bundle.manifest)


def measure(
    bundle: Bundle,
    choice: Choice,
    labelled: Sequence[Labelled],
    open_pytorch: Callable[[Variant], Session] | None,
) -> list[Measured]:
    """Accuracy of the variants; PyTorch runs once for all that share keep counts and thresholds."""
    from tofe_export.runtime.session import Session
    from tofe_export.verify.accuracy import accuracy

    pre = bundle.manifest.preprocessing
    measured: list[Measured] = []
    known: dict[object, Accuracy] = {}
    with console.progress("accuracy", len(choice.variants)) as progress:
        for variant in choice.variants:
            progress.advance(what=variant.name)
            with Session.open(bundle, variant.name, choice.backend, choice.provider) as session:
                own = accuracy(session, labelled, pre, progress.show)
            what = (variant.keep, variant.thresholds)
            if open_pytorch is not None and what not in known:
                with open_pytorch(variant) as session:
                    known[what] = accuracy(session, labelled, pre, progress.show)
            measured.append((variant, own, known.get(what)))
    return measured


def accuracy_table(measured: Sequence[Measured]) -> str:
    """Accuracies in percent; PyTorch's columns where it was asked."""
    images = measured[0][1].images
    headers = [f"accuracy, {images} pictures", "top-1", "top-5"]
    rows = [[variant.name, f"{own.top1:.2%}", f"{own.top5:.2%}"] for variant, own, _ in measured]
    if measured[0][2] is not None:
        headers += ["PyTorch top-1", "PyTorch top-5"]
        for row, (_, _, theirs) in zip(rows, measured, strict=True):
            row += [f"{theirs.top1:.2%}", f"{theirs.top5:.2%}"] if theirs else ["", ""]
    return console.table(headers, rows, right=(1, 2, 3, 4))


def accuracy_json(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The same for machines; shares in 0..1, `pytorch` null where it was not asked."""
    return [
        {"name": variant.name, **vars(own), "pytorch": vars(theirs) if theirs else None}
        for variant, own, theirs in measured
    ]
