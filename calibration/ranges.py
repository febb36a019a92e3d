"""Ranges of INT8 activations: how large tensors in front of quantised products get on the user's pictures.

The float32 graph runs in ONNX Runtime with those tensors as further outputs, one batch after the other, and
nothing is kept but a maximum or a histogram per tensor. Three methods say where a range ends:

    max          the largest absolute value
    percentile   the value below which 99.99 % of the numbers lie
    entropy      the cut that keeps most of the distribution's information

A range belongs to a product, by its node's name: that name is the same in the graphs of all batch sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tofe_export.calibration.cache import Record
from tofe_export.calibration.defaults import Method
from tofe_export.calibration.histogram import Array, Histogram
from tofe_export.errors import BundleError, InputError, PrecisionError

if TYPE_CHECKING:
    import onnx

    from tofe_export.graph.quantizing.sites import Site

PERCENTILE = 99.99
KIND = "ranges"
DYNAMIC_BATCH = 8
"""Images per run where the graph leaves it open."""


@dataclass(frozen=True)
class Ranges:
    """Largest absolute activation per product, and the file that says so."""

    values: Mapping[str, float]
    record: Record

    @property
    def images(self) -> Mapping[str, Any]:
        """What they were measured on."""
        facts: Mapping[str, Any] = self.record.values["images"]
        return facts


def ranges_key(
    graph_sha256: str, preprocessing: Mapping[str, Any], method: Method, images: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What ranges depend on; without `images` what they depend on besides."""
    how = {"name": method} | ({"percent": PERCENTILE} if method == "percentile" else {})
    key: dict[str, Any] = {"graph": graph_sha256, "preprocessing": preprocessing, "method": how}
    return key if images is None else key | {"images": images}


def read_ranges(record: Record, sites: Sequence[Site]) -> Ranges:
    """The ranges of a file. Raises BundleError where it lacks a site or holds something else than sizes."""
    values, images = record.values.get("ranges"), record.values.get("images")
    if not isinstance(values, dict) or not isinstance(images, dict):
        raise BundleError(
            f"{record.file}: expected ranges and images, found others. Delete this file to measure again"
        )
    for site in sites:
        size = values.get(site.node)
        if not isinstance(size, (int, float)) or isinstance(size, bool) or not 0 <= size < np.inf:
            raise BundleError(
                f"{record.file}: expected the range of {site.node}, found {size!r}. Delete this file to "
                "measure again"
            )
    return Ranges({site.node: float(values[site.node]) for site in sites}, record)


def measure_ranges(
    model: onnx.ModelProto,
    folder: Path,
    sites: Sequence[Site],
    batches: Iterable[Array],
    method: Method,
) -> dict[str, float]:
    """Run a bound float32 graph, whose weights lie in `folder`, on all batches of images.

    Raises:
        InputError: no images.
        PrecisionError: an activation is not finite.
    """
    from tofe_export.graph.quantizing.session import temporary_session, with_outputs

    tensors = list(dict.fromkeys(site.activation for site in sites))
    seen = {tensor: Histogram() for tensor in tensors}
    empty = True
    with temporary_session(with_outputs(model, tensors), folder) as session:
        size = session.inputs["images"].shape[0]
        for images in rebatched(batches, size if isinstance(size, int) else DYNAMIC_BATCH):
            outputs, empty = {"images": images, **session.infer({"images": images})}, False
            for tensor in tensors:
                _take(seen[tensor], tensor, outputs[tensor], method)
    if empty:
        raise InputError("expected images to calibrate with, found none")
    return {site.node: _end(seen[site.activation], method) for site in sites}


def rebatched(batches: Iterable[Array], size: int) -> Iterator[Array]:
    """The same images in batches of exactly `size`; the last one is filled up with its last image."""
    rest: list[Array] = []
    for batch in batches:
        rest += list(batch)
        while len(rest) >= size:
            yield np.stack(rest[:size])
            rest = rest[size:]
    if rest:
        yield np.stack([*rest, *[rest[-1]] * (size - len(rest))])


def _take(histogram: Histogram, tensor: str, values: Array, method: Method) -> None:
    try:
        if method != "max":
            histogram.add(values)
            return
        top = float(np.abs(values).max(initial=0.0))
        if not np.isfinite(top):
            raise ValueError("expected finite numbers, found NaN or infinity")
        histogram.largest = max(histogram.largest, top)
    except ValueError as error:
        raise PrecisionError(
            f"{tensor}: {error} on the calibration images, in float32. Such a model cannot be quantised"
        ) from error


def _end(histogram: Histogram, method: Method) -> float:
    if method == "entropy":
        return histogram.entropy()
    return histogram.percentile(PERCENTILE) if method == "percentile" else histogram.largest
