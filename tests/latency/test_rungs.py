"""What is a ladder, and what is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, UsageError
from tofe_export.latency.rungs import LADDER, count_of, default_counts, is_ladder, rungs_of


def test_default_counts_are_shares_of_the_tokens() -> None:
    assert default_counts(196, 3840) == (6, 12, 18, 24, 36, 49, 73, 98, 122, 147, 171, 196)
    assert default_counts(4, 3840) == (1, 2, 3, 4)
    assert max(default_counts(4096, 3840)) == 3839


def test_rungs_go_up(ladder: Bundle) -> None:
    (rungs,) = rungs_of(ladder, ladder.manifest.variants)
    assert [count_of(variant) for variant in rungs.variants] == [1, 2, 4]
    assert (rungs.dense.name, rungs.heads, rungs.name) == ("dense-fp32-b1", 2, "scatter, fp32, batch 1")


def test_an_export_is_no_ladder(bundle: Bundle) -> None:
    assert not is_ladder(bundle)
    with pytest.raises(
        UsageError, match=r"expected a ladder.*found dense-fp32-b1, 2.00g.*advise --model NAME"
    ):
        rungs_of(bundle, bundle.manifest.variants)


def test_one_rung_is_no_ladder(ladder: Bundle) -> None:
    assert is_ladder(ladder)
    with pytest.raises(UsageError, match="expected a ladder, two or more"):
        rungs_of(ladder, ladder.manifest.variants[:2])


def test_a_ladder_that_was_tampered_with(ladder: Bundle) -> None:
    dense, *rungs = ladder.manifest.variants
    uneven = replace(rungs[0], keep=(2, 1))
    with pytest.raises(
        BundleError, match=r"expected one keep count in all stages of a ladder, found \(2, 1\)"
    ):
        rungs_of(ladder, (dense, uneven, rungs[1]))
    headless = [replace(rung, extra={LADDER: {"heads": 0}}) for rung in rungs]
    with pytest.raises(BundleError, match=r"expected ladder.heads of at least 1"):
        rungs_of(ladder, (dense, *headless))
