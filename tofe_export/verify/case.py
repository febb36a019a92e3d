"""What one variant is expected to do: the manifest's promises and the reference's answers, side by side.

Stages are 0-based in code and 1-based in everything people read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tofe_export.errors import BundleError
from tofe_export.inputs import as_fed
from tofe_export.manifest import Manifest, Variant
from tofe_export.reference import Reference
from tofe_export.verify.compare import Array, Bools


@dataclass(frozen=True)
class Case:
    """One variant's expectation on n images; S stages (0 for a dense variant), N tokens."""

    name: str
    lowering: str  # "scatter", "concat", "adaptive" or "dense"
    precision: str
    batch: int | str
    output: str  # "logits", "features" or "tokens"
    keep: tuple[int, ...]  # K_s; empty for a dense variant
    thresholds: tuple[float, ...] | None  # adaptive only
    locations: tuple[int, ...]  # block before which selection s happens
    depth: int
    rounding: float  # of PyTorch's own answers, as a fraction of the range
    images: Array  # as the graph takes them: float32 (n, 3, H, W), or uint8 (n, H, W, 3)
    expected: Array  # float32 (n, ...)
    scores: Array  # float32 (n, S, N), NaN where not scored
    kept: Bools  # (n, S, N)

    @property
    def stages(self) -> int:
        """S."""
        return len(self.locations)

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.kept.shape[2])

    @property
    def dense(self) -> bool:
        """Whether nothing is selected."""
        return self.lowering == "dense"

    @property
    def adaptive(self) -> bool:
        """Whether the number of kept tokens depends on the image."""
        return self.lowering == "adaptive"

    @property
    def reuse(self) -> bool:
        """Whether every stage scores all tokens, so that any set of tokens can be forced at any stage."""
        return not bool(np.isnan(self.scores).any())

    @property
    def channel_axis(self) -> int:
        """Where the colours of `images` are."""
        return 3 if self.images.dtype == np.uint8 else 1

    def only(self, indices: Array) -> Case:
        """The same case on some of the images."""
        return replace(
            self,
            images=self.images[indices],
            expected=self.expected[indices],
            scores=self.scores[indices],
            kept=self.kept[indices],
        )

    def between(self, stage: int) -> str:
        """The part of the model whose fault shows first at `stage` (0-based; S means the output)."""
        ends = [*self.locations, self.depth]
        to = f"selection {stage + 1} (block {ends[stage]})" if stage < self.stages else "the output"
        if stage == 0:
            return f"between the images and {to}"
        return f"between selection {stage} (block {ends[stage - 1]}) and {to}"


def case_of(manifest: Manifest, variant: Variant, reference: Reference) -> Case:
    """Join manifest and reference; BundleError where one lacks what the other needs."""
    dense = variant.lowering == "dense"
    adaptive = variant.lowering == "adaptive"
    if not dense and variant.probe is None:
        raise BundleError(f"{variant.name}: expected a probe graph beside it, found none; export it again")
    if adaptive and variant.thresholds is None:
        raise BundleError(
            f"{variant.name}: expected an adaptive variant's thresholds, found none; export again"
        )
    model = manifest.model
    return case_for(
        variant,
        reference,
        output=model.output,
        tokens=model.tokens,
        locations=model.locations,
        depth=manifest.cost.depth,
        images=as_fed(reference.images, model, manifest.preprocessing),
    )


def case_for(
    variant: Variant,
    reference: Reference,
    *,
    output: str,
    tokens: int,
    locations: Sequence[int],
    depth: int,
    images: Array,
) -> Case:
    """What a variant must do, where the facts of its model are not in a manifest yet.

    `images` are the reference's, as the graph takes them.
    """
    dense, adaptive = variant.lowering == "dense", variant.lowering == "adaptive"
    n, key = len(reference.images), variant.reference
    nothing = np.zeros((n, 0, tokens))
    return Case(
        name=variant.name,
        lowering=variant.lowering,
        precision=variant.precision,
        batch=variant.batch,
        output=output,
        keep=() if dense else tuple(variant.keep or ()),
        thresholds=tuple(variant.thresholds or ()) if adaptive else None,
        locations=() if dense else tuple(locations),
        depth=depth,
        rounding=variant.rounding,
        images=images,
        expected=reference.output(key),
        scores=nothing if dense else reference.scores(key),
        kept=nothing.astype(bool) if dense else reference.kept(key),
    )
