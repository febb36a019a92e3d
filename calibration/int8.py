"""INT8 variants of a bundle, made from its float32 (and half-precision) graphs and the user's pictures.

Every second picture gives the ranges, the others judge: how often does the INT8 graph answer as its float32
twin does? Ranges and the decision what to leave out are settled once per budget and lowering, on one graph,
and hold for its siblings of other batch sizes; both are stored in the bundle (`cache`), so that a second run
computes nothing. Two forms:

    int8       float32 elsewhere, opset 17: TensorRT 8.6, and ONNX Runtime on a processor
    int8fp16   half precision elsewhere, opset 19: TensorRT 10 and newer; made from the fp16 graph

PyTorch is not needed: what an export wrote is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tofe_export.calibration.cache import FOLDER
from tofe_export.calibration.defaults import MIN_AGREEMENT, Method
from tofe_export.calibration.histogram import Array
from tofe_export.calibration.ranges import KIND
from tofe_export.errors import InputError, UsageError
from tofe_export.manifest import DYNAMIC, Variant

if TYPE_CHECKING:
    from tofe_export.bundle import Bundle

HALF_FORM = "int8fp16"
FORMS: Mapping[str, str] = {"int8": "fp32", HALF_FORM: "fp16"}
"""Precision -> the precision of the graph that it is made from."""
NEEDED = "INT8 needs pictures to calibrate with, and none was calibrated with before"
GIVE = (
    "give --images DIR (a few hundred pictures like those of the task; labels are not needed), or use "
    "tofe-export calibrate BUNDLE --images DIR"
)
HELD_OUT = 256
"""At most so many pictures of 224 x 224 judge, spread over all; they are held in memory (154 MB)."""
HELD_VALUES, HELD_MOST = HELD_OUT * 3 * 224 * 224, 4096
"""Of smaller pictures as many judge as have no more values, at most 4,096: few make a share coarse."""


@dataclass(frozen=True)
class Settings:
    """How INT8 variants are made."""

    method: Method = "max"
    min_agreement: float = MIN_AGREEMENT
    """With float32, on the held-out pictures; 0 leaves nothing out."""
    stem: bool = False
    """Whether convolutions are quantised, too."""


@dataclass(frozen=True)
class Pictures:
    """What calibration runs on."""

    batches: Iterable[Array]
    """As the graphs take them; gone through several times."""
    facts: Mapping[str, Any]
    """What they are, for the manifest; at least "count" and "sha256"."""

    def ranging(self) -> Iterator[Array]:
        """Every second picture, from the first on."""
        return self._half(0)

    def held_out(self) -> Array:
        """The others; of more than 256 (small ones: more) as many from each part: folders are often sorted.

        Raises InputError where there is only one picture.
        """
        self.require_two()
        there, kept = int(self.facts["count"]) // 2, list[Array]()
        pictures = (picture for batch in self._half(1) for picture in batch)
        for place, picture in enumerate(pictures):
            count = min(there, max(HELD_OUT, min(HELD_MOST, HELD_VALUES // picture.size)))
            if place == len(kept) * there // count:
                kept.append(picture.copy())  # a view would hold its whole batch
        return np.stack(kept)

    def require_two(self) -> None:
        """Raise InputError where there is only one picture."""
        if (count := int(self.facts["count"])) < 2:
            raise InputError(
                f"expected at least 2 pictures to calibrate INT8 with, found {count}: half of them judge. "
                "Give a few hundred"
            )

    def _half(self, first: int) -> Iterator[Array]:
        position = 0
        for batch in self.batches:
            chosen = batch[(first - position) % 2 :: 2]
            position += len(batch)
            if len(chosen):
                yield chosen


@dataclass(frozen=True)
class Job:
    """One INT8 variant to be made, of the float32 variant `twin` and the graph `base`."""

    name: str
    precision: str
    targets: tuple[str, ...]
    twin: Variant
    base: Variant
    settled_on: Variant
    """The float32 variant of the same budget and lowering on whose graph ranges are measured."""

    @property
    def group(self) -> tuple[str, str, str]:
        """What is settled once."""
        return (self.precision, self.twin.lowering, self.twin.reference)


def require_calibration(base: Bundle | None) -> None:
    """Raise UsageError where nothing was ever calibrated, before minutes of work; the details come later."""
    if base is None or not any((base.path / FOLDER).glob(f"{KIND}-*.json")):
        raise UsageError(f"{NEEDED}: {GIVE}")


def make_job(
    name: str, precision: str, targets: Sequence[str], twin: Variant, known: Sequence[Variant]
) -> Job:
    """A job on `twin`, of the graphs `known`; settled on the smallest fixed batch, else on the dynamic one.

    Raises UsageError where the graph that it is made from is not among them.
    """
    siblings = [
        variant
        for variant in known
        if (variant.precision, variant.lowering, variant.reference) == ("fp32", twin.lowering, twin.reference)
    ]
    first = min(siblings, key=lambda v: (v.batch == DYNAMIC, str(v.batch).zfill(6)))
    wanted = (FORMS[precision], twin.lowering, twin.reference, twin.batch)
    for base in known:
        if (base.precision, base.lowering, base.reference, base.batch) == wanted:
            return Job(name, precision, tuple(targets), twin, base, first)
    raise UsageError(
        f"{name} is made from the {FORMS[precision]} graph of {twin.name}, which is not there: export it "
        f"too (--precision {FORMS[precision]},{precision})"
    )


def add_int8(
    bundle: Bundle,
    pictures: Pictures | None,
    settings: Settings | None = None,
    precisions: Sequence[str] = ("int8",),
    twins: Sequence[Variant] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Bundle:
    """Add INT8 variants of float32 variants (`twins`, default: all) to a bundle, or replace them.

    Without `pictures` what the bundle's `calibration/` holds must be enough. Raises what `Quantizer.make`
    raises, BundleError (the bundle is damaged), UsageError (no float32 variants, or no fp16 ones for
    "int8fp16") and WriteError.
    """
    from tofe_export.bundle_writer import BundleWriter
    from tofe_export.calibration.quantizer import Quantizer
    from tofe_export.graph.request import targets_for

    manifest = bundle.manifest
    plain = [v for v in manifest.variants if v.precision == "fp32"] if twins is None else list(twins)
    if not plain:
        raise UsageError(
            f"{bundle.path} has no float32 variant to quantise: export one with tofe-export onnx --precision "
            "fp32"
        )
    bundle.check(manifest.variants)  # damage must not be given a fresh hash
    jobs = [
        make_job(
            twin.name.replace("-fp32-b", f"-{precision}-b"),
            precision,
            targets_for(twin.lowering, twin.batch, precision),
            twin,
            manifest.variants,
        )
        for precision in precisions
        for twin in plain
    ]
    with BundleWriter(bundle.path, bundle) as writer:
        root = writer.path("variants/weights").parent.parent
        about = manifest.preprocessing.to_json()
        quantizer = Quantizer(
            root,
            writer.shown,
            writer.path,
            about,
            manifest.model.output,
            settings or Settings(),
            pictures,
            say,
        )
        made, files = quantizer.make(jobs)
        names = {variant.name for variant in made}
        variants = (*(v for v in manifest.variants if v.name not in names), *made)
        used = {name for variant in variants for name in variant.weights}
        weights = {file.file: file for file in (*manifest.weights, *files)}
        listed = tuple(file for name, file in weights.items() if name in used)
        return writer.commit(replace(manifest, variants=variants, weights=listed))
