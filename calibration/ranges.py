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
from tofe_export.graph.quantizing.scales import LEVELS, WIDEST

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
    means: Mapping[str, float]
    """Mean absolute activation per product."""
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
    if not isinstance(record.values.get("images"), dict):
        raise BundleError(f"{record.file}: expected images, found none. Delete this file to measure again")
    values, means = (_sizes(record, what, sites) for what in ("ranges", "means"))
    return Ranges(values, means, record)


def _sizes(record: Record, what: str, sites: Sequence[Site]) -> dict[str, float]:
    found = record.values.get(what)
    for site in sites:
        size = found.get(site.node) if isinstance(found, dict) else None
        if not isinstance(size, (int, float)) or isinstance(size, bool) or not 0 <= size < np.inf:
            raise BundleError(
                f"{record.file}: expected a number of {site.node} in {what!r}, found {size!r}. Delete this "
                "file to measure again"
            )
    return {site.node: float(found[site.node]) for site in sites} if isinstance(found, dict) else {}


def outlying(ranges: Ranges, sites: Sequence[Site]) -> dict[str, str]:
    """Units with a product most of whose numbers INT8 would make 0, and why.

    That is so where half a step is more than the mean: a few outliers stretch the range.
    """
    found: dict[str, str] = {}
    for site in sites:
        half, mean = ranges.values[site.node] / LEVELS / 2, ranges.means[site.node]
        if half > mean:
            found.setdefault(
                site.unit,
                f"outliers: {site.node} reads numbers up to {ranges.values[site.node]:.1e}, so half a step "
                f"would be {half:.1e}, and the mean is {mean:.1e}",
            )
    return found


def measure_ranges(
    model: onnx.ModelProto,
    folder: Path,
    sites: Sequence[Site],
    batches: Iterable[Array],
    method: Method,
) -> dict[str, dict[str, float]]:
    """Run a bound float32 graph, whose weights lie in `folder`, on all batches of images.

    Returns "ranges" and "means", both by the site's node.

    Raises:
        InputError: no images.
        PrecisionError: an activation is not finite, or too large for any scale.
    """
    from tofe_export.graph.quantizing.session import temporary_session, with_outputs

    tensors = list(dict.fromkeys(site.activation for site in sites))
    seen = {tensor: Histogram() for tensor in tensors}
    empty = True
    with temporary_session(with_outputs(model, tensors), folder) as session:
        size = session.inputs["images"].shape[0]
        size = size if isinstance(size, int) else DYNAMIC_BATCH
        for images, count in rebatched(batches, size):
            outputs, empty = {"images": images, **session.infer({"images": images})}, False
            for tensor in tensors:  # whatever its rank, images come one after the other
                values = outputs[tensor].reshape(size, -1)[:count]
                _take(seen[tensor], tensor, values, method)
    if empty:
        raise InputError("expected images to calibrate with, found none")
    return {
        "ranges": {site.node: _end(seen[site.activation], site, method) for site in sites},
        "means": {site.node: seen[site.activation].mean for site in sites},
    }


def rebatched(batches: Iterable[Array], size: int) -> Iterator[tuple[Array, int]]:
    """The same images in batches of exactly `size`, and how many of a batch count.

    The last one is filled up with its last image.
    """
    rest: list[Array] = []
    for batch in batches:
        rest += list(batch)
        while len(rest) >= size:
            yield np.stack(rest[:size]), size
            rest = rest[size:]
    if rest:
        yield np.stack([*rest, *[rest[-1]] * (size - len(rest))]), len(rest)


def _take(histogram: Histogram, tensor: str, values: Array, method: Method) -> None:
    try:
        histogram.add(values, bins=method != "max")
    except ValueError as error:
        raise PrecisionError(
            f"{tensor}: {error} on the calibration images, in float32. Such a model cannot be quantised"
        ) from error


def _end(histogram: Histogram, site: Site, method: Method) -> float:
    ends = {
        "max": lambda: histogram.largest,
        "percentile": lambda: histogram.percentile(PERCENTILE),
        "entropy": histogram.entropy,
    }
    if (end := ends[method]()) > WIDEST:
        raise PrecisionError(
            f"{site.node} reads numbers up to {end:.1e} on the calibration images: expected at most "
            f"{WIDEST:.1e}, or no scale that float16 has would reach them. Such a model cannot be quantised"
        )
    return end
