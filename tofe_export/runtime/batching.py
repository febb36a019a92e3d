"""Any number of images through a graph of any batch size.

Graphs are exported with a fixed batch by default, because dynamic shapes cost speed and are wrong on some
versions of TensorRT. A set of n images is cut into batches; the last one is filled up by repeating its last
image, and the answers to the repeats are thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tofe_export.errors import InputError
from tofe_export.runtime.session import Array, Session

IMAGES = "images"


def run_batches(
    session: Session,
    images: Array,
    per_image: Mapping[str, Array] | None = None,
    constant: Mapping[str, Array] | None = None,
    batch: int = 8,
) -> Iterator[tuple[slice, dict[str, Array]]]:
    """Yield (which images, outputs for them) batch by batch.

    `images` has n rows, as the graph takes them; `per_image` are other inputs with n rows, cut in the same
    way; `constant` inputs are handed on as they are. `batch` counts only where the graph's own is dynamic.
    Raises InputError when there are no images or the numbers of rows differ, and what `Session.infer` raises.
    """
    rows = {IMAGES: images, **(per_image or {})}
    count = len(images)
    if count == 0 or any(len(array) != count for array in rows.values()):
        found = ", ".join(f"{name}: {len(array)}" for name, array in rows.items())
        raise InputError(f"expected the same number of rows, at least 1, for all inputs; found {found}")
    least, size = _sizes(session, batch)
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        filled = max(least, part.stop - start)
        feeds = {name: _fill(array[part], filled) for name, array in rows.items()}
        outputs = session.infer({**feeds, **(constant or {})})
        yield part, {name: array[: part.stop - start] for name, array in outputs.items()}


def run_all(
    session: Session,
    images: Array,
    per_image: Mapping[str, Array] | None = None,
    constant: Mapping[str, Array] | None = None,
    batch: int = 8,
) -> dict[str, Array]:
    """All outputs of `run_batches`, joined to n rows each.

    Raises InputError as `run_batches` does, and when an output's size depends on the image (kept sets of
    instance-adaptive graphs): such outputs only make sense one by one.
    """
    parts = [outputs for _, outputs in run_batches(session, images, per_image, constant, batch)]
    for name in parts[0]:
        if len(shapes := {part[name].shape[1:] for part in parts}) > 1:
            raise InputError(
                f"expected output {name} to have one shape for all images, found {sorted(shapes)}: "
                "use run_batches"
            )
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _sizes(session: Session, batch: int) -> tuple[int, int]:
    """The least batch that may be run, and the one to run: the graph's own, or `batch` as far as it may."""
    own = session.inputs[IMAGES].shape[0]
    if isinstance(own, int):
        return own, own
    least, largest = session.batches or (1, batch)
    return least, max(least, min(batch, largest))


def _fill(rows: Array, size: int) -> Array:
    missing = size - len(rows)
    return rows if missing == 0 else np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
