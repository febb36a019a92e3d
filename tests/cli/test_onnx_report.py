"""What `onnx` says about half precision: a row per typed variant, and what was held in float32."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tofe_export.bundle import Bundle
from tofe_export.cli.onnx import DEFAULT_PRECISIONS
from tofe_export.cli.onnx_report import typed_table
from tofe_export.manifest import Variant

LARGE = "magnitude 1.2e+05 on the reference images (limit 8.2e+03)"


def typed(variant: Variant, added: tuple[str, ...] = (), **reasons: str) -> Variant:
    figures: dict[str, Any] = {"images": 4, "output": 0.002, "added": list(added)}
    if not variant.dense:
        figures |= {"forced_output": 0.003, "scores": [0.001, 0.004], "overlap": [1.0, 0.97]}
    held = {"norm": "layer norm", **reasons}
    return replace(variant, extra={"evaluated": figures, "float32_nodes": held, "twin": variant.name})


def test_a_row_per_typed_variant(bundle: Bundle) -> None:
    dense, reduced, plain = bundle.manifest.variants
    text = typed_table([typed(dense), typed(reduced), plain])
    rows = [line.split() for line in text.splitlines() if line.startswith((dense.name, reduced.name))]
    assert rows == [
        [dense.name, "4", "2.0e-03", "-", "-", "1"],
        [reduced.name, "4", "3.0e-03", "4.0e-03", "97.0%", "1"],
    ]
    assert plain.name not in text
    assert "float32:" not in text


def test_nothing_is_said_of_float32_alone(bundle: Bundle) -> None:
    assert typed_table(bundle.manifest.variants) == ""


def test_what_was_held_is_said(bundle: Bundle) -> None:
    dense = bundle.manifest.variants[0]
    many = {f"n{i}": LARGE for i in range(5)}
    text = typed_table([typed(dense, ("residual stream",), **many)])
    assert "too large for half precision, so float32: n0, n1, n2 and 2 more" in text
    assert "held in float32 after a first evaluation: residual stream" in text


def test_the_default_is_both() -> None:
    assert DEFAULT_PRECISIONS == ("fp32", "fp16")
