"""`tofe-export predict [BUNDLE] IMAGE...`: class names and scores of pictures, to see a bundle work.

The probability is the softmax over all classes. Pictures go through the bundle's own preprocessing, the same
that `verify` tests and the model was trained with.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofe_export.cli import bundles, console, options
from tofe_export.errors import BundleError, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from tofe_export.bundle import Bundle
    from tofe_export.runtime.choice import Choice

    Floats = npt.NDArray[np.float32]

Prediction = dict[str, Any]

PICTURES_AT_ONCE = 8


@click.command("predict", short_help="Class names and scores of pictures.")
@click.argument("paths", nargs=-1, required=True, metavar="[BUNDLE] IMAGE...", type=options.PATH)
@options.variant_filters
@click.option(
    "--top", type=click.IntRange(min=1), default=5, show_default=True, help="How many classes to show."
)
@options.backend
@options.provider
@options.json_target
@options.quiet
def command(
    paths: tuple[Path, ...],
    top: int,
    backend: str | None,
    provider: str | None,
    json_target: str | None,
    **filters: Any,  # noqa: ANN401 - what options.variant_filters declares
) -> None:
    """Print the most likely classes of each IMAGE.

    The first argument is taken for BUNDLE if it is a folder that holds a manifest.json. Where no variant is
    picked, the first with token reduction answers.
    """
    where, pictures = split_paths(paths)
    bundle = bundles.open_bundle(where)
    if bundle.manifest.model.output != "logits":
        raise UsageError(
            f"{where}: expected a bundle of a classifier, whose output is logits; this one's is "
            f"{bundle.manifest.model.output}"
        )
    import numpy as np

    choice = bundles.choose_first(bundle, filters, backend, provider)
    logits = run(bundle, choice, pictures)
    if any(rows.shape[1] != len(bundle.manifest.classes or rows[0]) for rows in logits.values()):
        raise BundleError(f"{where}: expected as many class names as logits, found more or fewer")
    predictions = []
    for i, picture in enumerate(pictures):
        for name, rows in logits.items():
            classes = best(rows[i], top, bundle.manifest.classes)
            if not np.isfinite(rows[i]).all():
                console.warn(f"{picture}: {name} gives logits that are not finite: run `tofe-export verify`")
            console.say(f"{picture}  ({name})\n{classes_table(classes)}\n")
            predictions.append({"image": str(picture), "variant": name, "classes": classes})
    facts = {
        "bundle": str(where),
        "trained": bundle.manifest.model.trained,
        "backend": choice.backend,
        "provider": choice.provider,
        "predictions": predictions,
    }
    console.emit(facts, json_target)


def split_paths(paths: Sequence[Path]) -> tuple[Path, Sequence[Path]]:
    """Tell BUNDLE from pictures. Raises `UsageError` for a folder that is no bundle, and for no pictures."""
    is_bundle = os.path.isfile(paths[0] / "manifest.json")
    where, pictures = (paths[0], paths[1:]) if is_bundle else (options.DEFAULT_BUNDLE, paths)
    if not pictures:
        raise UsageError(f"{where} is a bundle; expected at least one picture after it")
    for picture in pictures:
        if os.path.isdir(picture):
            raise UsageError(
                f"{picture} is a folder: expected picture files, or as the first argument a bundle "
                "(a folder with manifest.json)"
            )
    return where, pictures


def run(bundle: Bundle, choice: Choice, pictures: Sequence[Path]) -> dict[str, Floats]:
    """Logits (n, C) of n pictures, by variant name; a few pictures are in memory at a time."""
    import numpy as np

    from tofe_export.inputs import prepare
    from tofe_export.preprocess import load_image
    from tofe_export.runtime.batching import run_all
    from tofe_export.runtime.session import Session

    pre, frames = bundle.manifest.preprocessing, bundle.manifest.model.takes_frames
    logits: dict[str, list[Floats]] = {variant.name: [] for variant in choice.variants}
    with ExitStack() as stack, console.progress("predict", len(pictures)) as progress:
        sessions = {
            name: stack.enter_context(Session.open(bundle, name, choice.backend, choice.provider))
            for name in logits
        }
        for first in range(0, len(pictures), PICTURES_AT_ONCE):
            some = pictures[first : first + PICTURES_AT_ONCE]
            images = np.stack([prepare(load_image(path), pre, frames=frames) for path in some])
            for name, session in sessions.items():
                logits[name].append(run_all(session, images)["logits"])
            progress.advance(len(some), some[-1].name)
    return {name: np.concatenate(rows) for name, rows in logits.items()}


def best(logits: Floats, top: int, classes: Sequence[str] | None) -> list[Prediction]:
    """The `top` largest of the logits (C,), with their softmax; equal ones in the order of their index."""
    import numpy as np

    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probability = shifted / shifted.sum()
    return [
        {
            "index": int(i),
            "name": None if classes is None else classes[i],
            "probability": float(probability[i]),
            "logit": float(logits[i]),
        }
        for i in np.argsort(-logits, kind="stable")[:top]
    ]


def classes_table(classes: Sequence[Prediction]) -> str:
    """What `best` found, for people."""
    rows = [
        (c["name"] or f"class {c['index']}", f"{c['probability']:.4f}", f"{c['logit']:.3f}") for c in classes
    ]
    return console.table(("class", "probability", "logit"), rows, right=(1, 2))
