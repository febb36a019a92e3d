"""Costs of models that tests know by heart, so that plans and prices can be checked without a model."""

from __future__ import annotations

from tofe_export.budget import Cost


def deit(width: int) -> Cost:
    """A DeiT at 224 px with twelve blocks, selections before blocks 3, 6 and 9."""
    return Cost(
        tokens=196,
        prefix=1,
        width=width,
        depth=12,
        attention_width=width,
        token_macs=4 * width**2 + 2 * width * 4 * width,
        stem_macs=196 * 768 * width,
        head_macs=width * 1000,
        head_token_macs=0,
        locations=(3, 6, 9),
        selector="mlp",
        approximator="bottleneck",
        reuse=True,
    )


DEIT_S = deit(384)
SMALL = Cost(
    tokens=64,
    prefix=1,
    width=32,
    depth=8,
    attention_width=32,
    token_macs=8192,
    stem_macs=98_304,
    head_macs=320,
    head_token_macs=0,
    locations=(2, 4, 6),
    selector="mlp",
    approximator="bottleneck",
    reuse=True,
)
"""The ViT of the experiments on digits."""
