"""What is said about INT8 variants: agreement, what was left out and why, and where the ranges come from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tofe_export.bundle import Bundle
from tofe_export.cli.int8_report import int8_line, int8_table
from tofe_export.manifest import Variant

ACCOUNT: dict[str, Any] = {
    "images": {"folder": "photos", "count": 512, "sha256": "abcdef0123456789"},
    "method": {"name": "max"},
    "made": "2026-01-02T03:04:05+00:00",
    "ranges": "calibration/ranges-0123456789ab.json",
    "products": 48,
    "share_of_macs": 0.934,
    "left_out": {},
    "excluded": {"head/Gemm": "head"},
    "min_agreement": 0.99,
    "agreement": 0.996,
    "agreement_with_nothing_left_out": 0.996,
    "held_out_images": 256,
}


@pytest.fixture
def variant(bundle: Bundle) -> Variant:
    """A variant with INT8 in its name."""
    return replace(bundle.manifest.variants[1], name="2.00g-scatter-int8-b1", extra={"int8": ACCOUNT})


def changed(variant: Variant, **facts: Any) -> Variant:
    return replace(variant, extra={"int8": ACCOUNT | facts})


def test_a_row_per_variant(variant: Variant) -> None:
    lines = int8_table([variant]).strip().splitlines()
    assert len(lines) == 3
    assert lines[2].split() == ["2.00g-scatter-int8-b1", "48", "93%", "99.6%", "256", "0"]


def test_other_variants_are_not_mentioned(bundle: Bundle) -> None:
    assert int8_table(bundle.manifest.variants) == ""


def test_what_was_left_out_is_said_with_its_reason_once(variant: Variant) -> None:
    left = {f"blocks.{n}.mlp.fc1/MatMul": f"alone it moves the answers by {n}e-2" for n in range(6)}
    one = changed(variant, left_out=left, agreement_with_nothing_left_out=0.9)
    text = int8_table([one, replace(one, name="2.00g-scatter-int8-b8")])
    assert text.count("with everything in INT8 90.0% agree, 99.0% were asked for") == 1
    assert "blocks.0.mlp.fc1/MatMul (alone it moves the answers by 0e-2)" in text
    assert "and 2 more" in text


def test_few_pictures_are_named_as_such(variant: Variant) -> None:
    assert "judged on 20 pictures only, each is 5.0%" in int8_table([changed(variant, held_out_images=20)])
    assert "judged on" not in int8_table([variant])


def test_the_line_says_from_what_how_and_when() -> None:
    assert int8_line(ACCOUNT) == (
        "ranges by max on half of 512 pictures of photos (sha256 abcdef012345), 2026-01-02T03:04:05+00:00; "
        "99.6% of 256 held-out pictures answered as in float32"
    )
