"""How far a runtime may be from the reference, per precision. Data, not code.

Both limits are relative: outputs to the range (max - min) of the reference's row, scores to the range of the
reference's scores of that image and stage.

*float32*: two runtimes agree to about 1e-6 of the range, one swapped token moves the logits by about 1e-2.
The limits lie between, ten times above the noise.

*float16* and *bfloat16* keep 11 and 8 bits between operators. Measured by the rounding evaluator on DeiT-S,
LV-ViT-S and DINOv2-S with registers, forced sets: outputs 9e-4 to 3.4e-3 of the range in float16 and 8e-3 to
2.1e-2 in bfloat16, scores up to 1.4e-3 and 1.4e-2. float16's limits are three and seven times that, and
bfloat16's are eight times float16's, as its steps are. They are above what one swapped token does, which is
why kept sets are judged by themselves and outputs under forced sets.

*INT8* keeps 8 bits of what enters products. Measured in ONNX Runtime on drawn weights and photos (DeiT-S,
LV-ViT-S, DINOv2-S with registers, ranges from 16 photos): outputs up to 6.4e-2 under forced sets, scores
up to 4.1e-2; on models trained on digits 2e-2 and 4e-3. The limits are three times the worst. They tell a
broken graph from a working one; whether INT8 is good enough is what `--min-agreement` asks when it is
made, on many more pictures.

A model can be worse than that by itself: where the terms of the head nearly cancel, PyTorch's own float32
differs from float64 by more than a millionth of the range, and so does every runtime, each in its own way.
The export measures that, and the limit is never less than a multiple of what it found (for half precision as
many times as its steps are coarser than float32's, 2^13 and 2^16; a third of that was seen), up to a ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tofe_export.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """`output` and `scores`: largest error allowed, as a fraction of the reference's range."""

    output: float
    scores: float


@dataclass(frozen=True)
class Allowance:
    """What a model's own rounding excuses: the output's limit is `factor` times it, up to `ceiling`."""

    factor: float
    ceiling: float


LIMITS = {
    "fp32": Limits(output=1e-5, scores=1e-4),
    "fp16": Limits(output=1e-2, scores=1e-2),
    "bf16": Limits(output=8e-2, scores=8e-2),
    "int8": Limits(output=2e-1, scores=1.2e-1),
    "int8fp16": Limits(output=2e-1, scores=1.2e-1),
}
ALLOWANCES = {
    "fp32": Allowance(factor=10.0, ceiling=1e-3),  # 5 times was seen
    "fp16": Allowance(factor=2.0**13, ceiling=5e-2),
    "bf16": Allowance(factor=2.0**16, ceiling=2e-1),
    "int8": Allowance(factor=2.0**17, ceiling=3e-1),
    "int8fp16": Allowance(factor=2.0**17, ceiling=3e-1),
}


def limits_for(precision: str, rounding: float = 0.0) -> Limits:
    """The limits of a precision, for a model whose own answers carry `rounding`.

    Raises UsageError where no limits have been established.
    """
    if precision not in LIMITS:
        known = ", ".join(LIMITS)
        raise UsageError(
            f"verify has no limits for precision {precision!r}; it knows {known}. "
            f"Leave such variants out with --precision {known.replace(' ', '')}"
        )
    limits, allowance = LIMITS[precision], ALLOWANCES[precision]
    return replace(limits, output=max(limits.output, min(allowance.factor * rounding, allowance.ceiling)))
