"""How far a runtime may be from the reference, per precision. Data, not code.

Both limits are relative: outputs to the range (max - min) of the reference's row, scores to the range of the
reference's scores of that image and stage. Measured for float32: two runtimes agree to about 1e-6 of the
range, one swapped token moves the logits by about 1e-2. The limits lie between, ten times above the noise.

A model can be worse than that by itself: where the terms of the head nearly cancel, PyTorch's own float32
differs from float64 by more than a millionth of the range, and so does every runtime, each in its own way.
The export measures that, and the limit is never less than ten times what it found, up to a tenth of what a
swapped token does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tofe_export.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """`output` and `scores`: largest error allowed, as a fraction of the reference's range."""

    output: float
    scores: float


NOISE_FACTOR = 10.0
"""How far a runtime may be off in units of PyTorch's own rounding; 5 was seen."""
CEILING = 1e-3
"""No rounding excuses more than this fraction of the range."""

LIMITS = {
    "fp32": Limits(output=1e-5, scores=1e-4),
}


def limits_for(precision: str, rounding: float = 0.0) -> Limits:
    """The limits of a precision, for a model whose own answers carry `rounding`.

    Raises UsageError where no limits have been established.
    """
    if precision not in LIMITS:
        known = ", ".join(LIMITS)
        raise UsageError(
            f"verify has no limits for precision {precision!r}; it knows {known}. "
            f"Leave such variants out with --precision {known}"
        )
    limits = LIMITS[precision]
    return replace(limits, output=max(limits.output, min(NOISE_FACTOR * rounding, CEILING)))
