"""How far a runtime may be from the reference, per precision. Data, not code.

Both limits are relative: outputs to the range (max - min) of the reference's row, scores to the range of the
reference's scores of that image and stage. Measured for float32: two runtimes agree to about 1e-6 of the
range, one swapped token moves the logits by about 1e-2. The limits lie between, ten times above the noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from tofe_export.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """`output` and `scores`: largest error allowed, as a fraction of the reference's range."""

    output: float
    scores: float


LIMITS = {
    "fp32": Limits(output=1e-5, scores=1e-4),
}


def limits_for(precision: str) -> Limits:
    """The limits of a precision; UsageError where none have been established."""
    if precision not in LIMITS:
        known = ", ".join(LIMITS)
        raise UsageError(
            f"verify has no limits for precision {precision!r}; it knows {known}. "
            f"Leave such variants out with --precision {known}"
        )
    return LIMITS[precision]
