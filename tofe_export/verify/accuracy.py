"""Agreement with labels, on a folder whose sub-folders are named after classes.

Accuracy answers another question than parity: a graph may equal PyTorch to the last digit and the model
still be bad, or be preprocessed wrongly on both sides. It is reported and never part of the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tofe_export.calibration.images import find_images, label_of, sample
from tofe_export.inputs import prepare
from tofe_export.preprocess import Preprocessing, load_image
from tofe_export.runtime.batching import IMAGES, run_all
from tofe_export.runtime.session import Session

CHUNK = 32  # images held in memory at once

Labelled = tuple[Path, int]


@dataclass(frozen=True)
class Accuracy:
    """Shares in 0..1 over `images` labelled pictures."""

    images: int
    top1: float
    top5: float


def labelled_images(folder: Path, classes: Sequence[str], count: int | None = None) -> list[Labelled]:
    """Pictures whose sub-folder is a class name, with the class's index; at most `count`, evenly sampled.

    Empty where no sub-folder is a class name. Raises ImageError for a folder without pictures.
    """
    labels = {path: label_of(path, folder, classes) for path in find_images(folder)}
    paths = [path for path, label in labels.items() if label is not None]
    chosen = sample(paths, count) if count is not None and paths else paths
    return [(path, label) for path in chosen if (label := labels[path]) is not None]


def accuracy(
    session: Session,
    images: Sequence[Labelled],
    pre: Preprocessing,
    progress: Callable[[str], None] | None = None,
) -> Accuracy:
    """Top-1 and top-5 of a session that gives "logits". Raises ImageError for pictures that cannot be read.

    Equal logits count for the lower index, as in PyTorch's argmax. Raises ValueError without images.
    """
    if not images:
        raise ValueError("expected labelled images, found none")
    frames = session.inputs[IMAGES].dtype == np.uint8
    ranks: list[int] = []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        batch = np.stack([prepare(load_image(path), pre, frames=frames) for path, _ in chunk])
        logits = run_all(session, batch)["logits"]
        order = np.argsort(-logits, axis=1, kind="stable")
        ranks += [int(np.flatnonzero(row == label)[0]) for row, (_, label) in zip(order, chunk, strict=True)]
        if progress:
            progress(f"{len(ranks)} of {len(images)} labelled images")
    found = np.array(ranks)
    return Accuracy(len(found), float((found < 1).mean()), float((found < 5).mean()))
