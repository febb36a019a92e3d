"""Which variants are compared with which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tofe_export.bench.pairs import pairs_of
from tofe_export.bundle import Bundle
from tofe_export.errors import UsageError, VariantError

SCATTER, DENSE, BATCH_4 = "2.00g-scatter-fp32-b1", "dense-fp32-b1", "1.50g-scatter-fp32-b4"


def with_variants(bundle: Bundle, *changed: tuple[str, dict[str, Any]]) -> Bundle:
    """The bundle with copies of its variants, each changed."""
    made = [replace(bundle.variant(name), **changes) for name, changes in changed]
    return Bundle(bundle.path, replace(bundle.manifest, variants=(*bundle.manifest.variants, *made)))


def names(bundle: Bundle, picked: list[str], against: str = "dense") -> list[tuple[str, str]]:
    pairs = pairs_of(bundle, [bundle.variant(name) for name in picked], against)
    return [(pair.variant.name, pair.against.name) for pair in pairs]


def test_a_variant_meets_the_dense_one_of_its_batch_and_precision(bundle: Bundle) -> None:
    more = with_variants(
        bundle,
        (DENSE, {"name": "dense-fp32-b4", "batch": 4}),
        (DENSE, {"name": "dense-fp16-b1", "precision": "fp16"}),
        (SCATTER, {"name": "2.00g-scatter-fp16-b1", "precision": "fp16"}),
    )
    assert names(more, [DENSE, SCATTER, BATCH_4, "2.00g-scatter-fp16-b1"]) == [
        (SCATTER, DENSE),
        (BATCH_4, "dense-fp32-b4"),
        ("2.00g-scatter-fp16-b1", "dense-fp16-b1"),
    ]


def test_macs_are_compared_in_the_same_direction_as_times(bundle: Bundle) -> None:
    more = with_variants(bundle, (SCATTER, {"name": "half", "gmacs_executed": 0.625}))
    (pair,) = pairs_of(more, [more.variant("half")])
    assert pair.mac_ratio == 2.0


def test_without_a_dense_partner_it_says_what_to_do(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"precision fp32 and batch 4 .*tofe-export onnx .*--against NAME"):
        names(bundle, [BATCH_4])


def test_dense_alone_is_nothing_to_compare(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=f"with token reduction, found {DENSE}"):
        names(bundle, [DENSE])


def test_a_named_side_meets_all_others_of_its_batch(bundle: Bundle) -> None:
    assert names(bundle, [DENSE, SCATTER, BATCH_4], SCATTER) == [(DENSE, SCATTER)]


def test_another_batch_is_never_compared(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=f"batch 1 to compare with {DENSE}, found {BATCH_4}"):
        names(bundle, [BATCH_4], DENSE)


def test_an_unknown_name_lists_the_names(bundle: Bundle) -> None:
    with pytest.raises(VariantError, match="no variant 'x'"):
        names(bundle, [SCATTER], "x")
