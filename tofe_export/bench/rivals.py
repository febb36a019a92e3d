"""Any ONNX graph against the bundle's dense model: what others would run instead, measured by the same rules.

A rival is one file with one image input (B, 3, H, W) of float32 and fixed sizes; its name, its outputs and
where it came from do not matter. It takes turns with the dense variant of the same batch, which also runs a
second time, so the verdicts mean what they mean for variants. Another resolution than the bundle's is
allowed, since a smaller input is what many people would choose instead; such a graph is fed numbers from a
fixed seed, on which latency does not depend.

What a rival computes is nobody's concern here: accuracy is not compared, and its MACs are not known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tofe_export.bench.comparison import (
    NOISE_LIMIT,
    Figures,
    Measured,
    noise_json,
    take_turns,
    variant_json,
    verdict,
)
from tofe_export.bench.pairs import DENSE
from tofe_export.bench.rounds import Plan
from tofe_export.bench.sides import How, feeds_of, open_side
from tofe_export.bench.statistics import Ratio
from tofe_export.errors import BundleError, InputError, UsageError
from tofe_export.files import sha256_file
from tofe_export.inputs import as_fed
from tofe_export.runtime.session import Array, TensorInfo

if TYPE_CHECKING:
    from tofe_export.bench.timing import Feeds
    from tofe_export.bundle import Bundle
    from tofe_export.manifest import Variant
    from tofe_export.runtime.onnxruntime import OnnxRuntimeSession

SUFFIX = ".onnx"
_FEEDS, _SEED = 4, 0


@dataclass(frozen=True)
class Rival:
    """A graph that can be measured, and the variant that it is measured against."""

    path: Path
    sha256: str
    input: TensorInfo
    against: Variant

    @property
    def batch(self) -> int:
        """Images per run."""
        return int(self.input.shape[0])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        _, _, height, width = self.input.shape
        return int(height), int(width)


@dataclass(frozen=True)
class RivalComparison:
    """What was measured of a rival; `speedup` above 1: the rival is faster."""

    rival: Rival
    measured: Measured

    @property
    def noise(self) -> Ratio:
        """The reference against itself."""
        return self.measured.noise

    @property
    def too_noisy(self) -> bool:
        """Whether the reference differs from itself by more than the limit."""
        return self.noise.deviation > NOISE_LIMIT

    @property
    def reference(self) -> str:
        """The name of what it is compared with."""
        return self.rival.against.name

    @property
    def verdict(self) -> str:
        """What may be claimed of the rival."""
        return verdict(self.measured.speedup, self.noise)

    def to_json(self) -> dict[str, Any]:
        """The comparison for machines, see docs/bench.md."""
        rival, found = self.rival, self.measured
        return {
            "rival": {
                "file": str(rival.path),
                "sha256": rival.sha256,
                "input": rival.input.name,
                "shape": list(rival.input.shape),
                **_figures(found.variant),
            },
            "against": variant_json(rival.against) | _figures(found.against),
            "batch": rival.batch,
            "clock": found.clock,
            "speedup": asdict(found.speedup),
            "noise": noise_json(found.noise),
            "verdict": self.verdict,
        }


def files_of(named: Sequence[Path]) -> list[Path]:
    """The files that were named, and all `*.onnx` of folders that were. Raises InputError."""
    found: list[Path] = []
    for path in named:
        inside = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"--rivals: expected ONNX files in {path}, found none ending in {SUFFIX}")
        if not inside[0].is_file():
            raise InputError(f"--rivals: there is no file {path}")
        found += inside
    return list(dict.fromkeys(found))


def rival_of(bundle: Bundle, path: Path, how: How, against: str = DENSE) -> Rival:
    """Look at a file, and find the variant it is measured against.

    Raises InputError (not a graph of one float32 image input of fixed sizes), UsageError (no variant of that
    batch) and MissingBackend.
    """
    with _open(path, how) as session:
        infos = list(session.inputs.values())
    expected = "one input of float32 images (batch, 3, height, width)"
    if len(infos) != 1 or infos[0].dtype != np.float32 or len(infos[0].shape) != 4:
        listed = "; ".join(map(str, infos)) or "no inputs"
        raise InputError(f"{path}: expected {expected}, found {listed}")
    if not all(isinstance(size, int) for size in infos[0].shape):
        raise InputError(
            f"{path}: expected fixed sizes, found {infos[0]}. Export it for one batch and one resolution: "
            "a dynamic graph is another program, and often a slower one"
        )
    if infos[0].shape[1] != 3:
        raise InputError(f"{path}: expected {expected}, found {infos[0]}")
    return Rival(path, sha256_file(path), infos[0], _against(bundle, path, int(infos[0].shape[0]), against))


def compare_rival(
    bundle: Bundle,
    rival: Rival,
    how: How,
    plan: Plan,
    free_memory: Callable[[], int] | None = None,
    on_round: Callable[[int], None] = lambda done: None,
) -> RivalComparison:
    """Measure a rival and its reference in turns. Raises what opening and running raise."""
    reference = bundle.reference()
    images = as_fed(reference.images, bundle.manifest.model, bundle.manifest.preprocessing)

    def candidate() -> tuple[OnnxRuntimeSession, list[Feeds]]:
        return _open(rival.path, how), feeds_for(rival, reference.images)

    def dense() -> Any:  # noqa: ANN401 - a session and its feeds
        session = open_side(bundle, rival.against, how)
        return session, feeds_of(session, images, rival.batch)

    return RivalComparison(
        rival, take_turns(candidate, dense, rival.batch, plan, free_memory, on_round=on_round)
    )


def feeds_for(rival: Rival, images: Array) -> list[Feeds]:
    """Inputs of one run each: the bundle's pictures (n, 3, H, W) where they fit, else numbers from a seed."""
    shape = tuple(int(size) for size in rival.input.shape)
    if images.shape[1:] == shape[1:]:
        count = max(1, min(_FEEDS, len(images) // rival.batch))
        rows = np.arange(count * rival.batch) % len(images)
        batches = [np.ascontiguousarray(images[part]) for part in rows.reshape(count, rival.batch)]
    else:
        random = np.random.default_rng(_SEED)
        batches = [random.standard_normal(shape, dtype=np.float32) for _ in range(_FEEDS)]
    return [{rival.input.name: batch} for batch in batches]


def _open(path: Path, how: How) -> OnnxRuntimeSession:
    from tofe_export.runtime.onnxruntime import OnnxRuntimeSession, Tuning

    tuning = Tuning(how.threads, spinning=how.spinning or how.on_gpu, exact=False)
    try:
        return OnnxRuntimeSession(path, how.provider, tuning)
    except BundleError as error:
        raise InputError(f"--rivals: {error}") from error


def _against(bundle: Bundle, path: Path, batch: int, against: str) -> Variant:
    """The float32 dense variant of that batch, or the one that was named."""
    if against != DENSE:
        other = bundle.variant(against)
        if other.batch != batch:
            raise UsageError(
                f"{path} takes batch {batch}, and {against} takes {other.batch}: name another one"
            )
        return other
    dense = [variant for variant in bundle.manifest.variants if variant.dense]
    for variant in dense:
        if (variant.batch, variant.precision) == (batch, "fp32"):
            return variant
    found = ", ".join(variant.name for variant in dense) or "none"
    raise UsageError(
        f"{path} takes batch {batch}; expected a dense fp32 variant of that batch to compare it with, found "
        f"{found}. Export one with tofe-export onnx --batch {batch}, or export the rival for another batch"
    )


def _figures(figures: Figures) -> dict[str, Any]:
    return asdict(figures)
