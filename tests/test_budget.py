"""The cost model against the figures of the ToFe paper, and against itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from known_costs import deit

from tofe_export.budget import (
    APPROXIMATORS,
    Cost,
    check_keep,
    dense_macs,
    describe,
    gmacs,
    macs,
    macs_executed,
    macs_of,
    printed,
)


def lv_vit(width: int, depth: int, locations: tuple[int, ...]) -> Cost:
    convolutions = 112 * 112 * (3 * 64 * 49 + 2 * 64 * 64 * 9) + 14 * 14 * 64 * 64 * width
    return replace(
        deit(width),
        depth=depth,
        locations=locations,
        token_macs=4 * width**2 + 2 * width * 3 * width,
        stem_macs=convolutions,
        head_token_macs=width * 1000,
    )


DEIT_S = deit(384)
DEIT_B = deit(768)
LV_VIT_S = lv_vit(384, 16, (4, 8, 12))
LV_VIT_M = lv_vit(512, 20, (5, 10, 15))
KEEP = (96, 49, 27)  # (0.49, 0.25, 0.14) of 196


def exactly(cost: Cost, ratios: Sequence[float]) -> float:
    """GMACs at ratios of N, as the paper counts: its tokens per stage are averages, not whole."""
    return gmacs(macs(cost, cast("list[int]", [ratio * cost.tokens for ratio in ratios])))


@pytest.mark.parametrize(
    ("cost", "expected", "text"),
    [
        (DEIT_S, 4.5989, "4.60"),
        (DEIT_B, 17.5638, "17.56"),
        (LV_VIT_S, 6.5515, "6.55"),
        (LV_VIT_M, 12.6780, "12.68"),
    ],
)
def test_dense_backbones(cost: Cost, expected: float, text: str) -> None:
    assert gmacs(dense_macs(cost)) == pytest.approx(expected, abs=5e-5)
    assert printed(gmacs(dense_macs(cost))) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0, "2.00"),
        (2.004, "2.00"),
        (0.1, "0.10"),
        (0.0999, "0.0999"),
        (0.09996, "0.1000"),
        (0.01534, "0.0153"),
        (1e-6, "0.00000100"),
        (0.0, "0.00"),
        (-1.0, "-1.00"),
    ],
)
def test_printed(value: float, text: str) -> None:
    assert printed(value) == text


def test_macs_of_takes_any_numbers() -> None:
    assert macs_of(DEIT_S, KEEP) == macs(DEIT_S, KEEP)
    half = macs_of(DEIT_S, [k + 0.5 for k in KEEP])
    assert macs(DEIT_S, KEEP) < half < macs(DEIT_S, [k + 1 for k in KEEP])
    with pytest.raises(ValueError, match="expected 3 keep counts"):
        macs_of(DEIT_S, (1.0,))


def test_the_papers_deit_s() -> None:
    total = exactly(DEIT_S, (0.49, 0.25, 0.14))
    assert total == pytest.approx(2.2663, abs=1e-4)
    assert f"{total:.1f}" == "2.3"
    assert gmacs(macs(DEIT_S, KEEP)) == pytest.approx(2.2637, abs=1e-4)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((0.5, 0.25, 0.125), 2.2616),
        ((0.4, 0.4, 0.1), 2.2878),
        ((1 / 3,) * 3, 2.3923),
        ((0.4, 0.3, 0.3), 2.3928),
    ],
)
def test_table_v(ratios: tuple[float, ...], expected: float) -> None:
    assert exactly(DEIT_S, ratios) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("cost", "keep", "expected"),
    [
        (DEIT_S, (70, 35, 20), 2.001),
        (DEIT_B, (93, 48, 27), 8.613),
        (LV_VIT_S, (49, 25, 14), 3.297),
        (LV_VIT_M, (67, 34, 19), 6.088),
    ],
)
def test_published_budgets(cost: Cost, keep: tuple[int, ...], expected: float) -> None:
    assert gmacs(macs(cost, keep)) == pytest.approx(expected, abs=6e-4)


@pytest.mark.parametrize(
    ("cost", "floor"), [(DEIT_S, 1.321), (DEIT_B, 4.990), (LV_VIT_S, 2.763), (LV_VIT_M, 4.474)]
)
def test_floors(cost: Cost, floor: float) -> None:
    """The published floors keep no token; the cost is quadratic, so three prices lead there."""
    one, two, three = (macs(cost, (k,) * 3) for k in (1, 2, 3))
    none = 3 * one - 3 * two + three
    assert gmacs(none) == pytest.approx(floor, abs=6e-4)


def approximators(cost: Cost, kind: str) -> int:
    return macs(replace(cost, approximator=kind), KEEP) - macs(replace(cost, approximator="identity"), KEEP)


def test_table_iv_shares() -> None:
    assert approximators(DEIT_S, "bottleneck") == 392 * 2 * 384 * 192
    assert approximators(DEIT_S, "bottleneck") / 2.294e9 == pytest.approx(0.0252, abs=5e-5)
    assert approximators(DEIT_S, "depthwise") == 9 * 384 * 392
    assert approximators(DEIT_S, "depthwise") / 2.296e9 == pytest.approx(0.00059, abs=5e-6)
    assert approximators(DEIT_S, "block") == pytest.approx(752.6e6, abs=5e4)
    assert approximators(DEIT_S, "block") / 2.3765e9 == pytest.approx(0.3167, abs=5e-5)


def test_table_iii_selectors() -> None:
    dynamicvit = replace(DEIT_S, selector="dynamicvit")
    assert macs(dynamicvit, KEEP) - macs(DEIT_S, KEEP) == 3 * 196 * 384 * 384 == 86_704_128
    assert exactly(dynamicvit, (0.47, 0.21, 0.11)) == pytest.approx(2.2553, abs=1e-4)


def test_keeping_everything_costs_the_dense_model_and_the_modules() -> None:
    modules = 3 * 196 * 92_352 + 2 * 196 * 2 * 384 * 192
    assert macs(DEIT_S, (196,) * 3) == dense_macs(DEIT_S) + modules


def test_executed_approximators() -> None:
    per_token = 2 * 384 * 192
    blocks = macs(replace(DEIT_S, approximator="identity"), KEEP)
    assert macs_executed(DEIT_S, KEEP, "scatter") == blocks + 2 * 197 * per_token
    assert macs_executed(DEIT_S, KEEP, "adaptive") == macs_executed(DEIT_S, KEEP, "scatter")
    assert macs_executed(DEIT_S, KEEP, "concat") == blocks + (196 - 96 + 196 - 49) * per_token
    assert gmacs(macs_executed(DEIT_S, KEEP, "concat")) == pytest.approx(2.2423, abs=1e-4)


@pytest.mark.parametrize("approximator", ["identity", "depthwise", "block"])
def test_the_other_approximators_execute_what_the_paper_counts(approximator: str) -> None:
    cost = replace(DEIT_S, approximator=approximator)
    assert macs_executed(cost, KEEP, "scatter") == macs(cost, KEEP)


def test_tokens_run_no_head() -> None:
    head = 384 * 1000 * (1 + 27)
    logits = macs_executed(LV_VIT_S, KEEP, "scatter")
    assert logits - macs_executed(LV_VIT_S, KEEP, "scatter", "tokens") == head
    assert macs_executed(LV_VIT_S, KEEP, "scatter", "features") == logits
    assert dense_macs(DEIT_S) - macs_executed(DEIT_S, (), "dense", "tokens") == 384_000


def test_a_head_that_reads_prefix_tokens() -> None:
    assert dense_macs(replace(DEIT_S, prefix=5, head_prefix_macs=7)) == 35 + dense_macs(
        replace(DEIT_S, prefix=5)
    )


def test_without_reuse_survivors_are_scored_and_nothing_thaws() -> None:
    cost = replace(DEIT_S, reuse=False)
    scored = (196 + 96 + 49) * 92_352
    blocks = macs(replace(DEIT_S, approximator="identity"), KEEP) - 3 * 196 * 92_352
    assert macs(cost, KEEP) == blocks + scored
    assert macs_executed(cost, KEEP, "concat") == macs(cost, KEEP)


def test_concat_has_no_depthwise() -> None:
    with pytest.raises(ValueError, match="lower with scatter"):
        macs_executed(replace(DEIT_S, approximator="depthwise"), KEEP, "concat")


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ((96, 49), "expected 3 keep counts, one per selection, found 2"),
        ((96, 49, 0), "from 1 to 196, found 0"),
        ((197, 49, 27), "from 1 to 196, found 197"),
    ],
)
def test_unusable_keep_counts(keep: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        macs(DEIT_S, keep)


def test_only_without_reuse_must_counts_never_increase() -> None:
    check_keep(DEIT_S, (27, 49, 96))
    check_keep(replace(DEIT_S, reuse=False), (49, 49, 27))
    with pytest.raises(ValueError, match=r"without reuse .* found 27, 49, 49"):
        check_keep(replace(DEIT_S, reuse=False), (27, 49, 49))


@pytest.mark.parametrize(
    ("lowering", "output"), [("paper", "logits"), ("gather", "logits"), ("scatter", "mask")]
)
def test_unknown_lowerings_and_outputs(lowering: str, output: str) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        macs_executed(DEIT_S, KEEP, lowering, output)


@pytest.mark.parametrize("approximator", APPROXIMATORS)
@pytest.mark.parametrize("lowering", ["scatter", "adaptive"])
@pytest.mark.parametrize("output", ["logits", "tokens"])
def test_described_lines_add_up(approximator: str, lowering: str, output: str) -> None:
    cost = replace(LV_VIT_S, approximator=approximator)
    *lines, total = describe(cost, KEEP, lowering, output)
    assert sum(line.macs for line in lines) == total.macs == macs(cost, KEEP)
    assert (
        sum(line.executed for line in lines) == total.executed == macs_executed(cost, KEEP, lowering, output)
    )


def test_described_stages() -> None:
    lines = describe(DEIT_S, KEEP, "concat")
    assert [line.name for line in lines] == [
        "stem",
        "stage 0",
        "stage 1",
        "stage 2",
        "stage 3",
        "head",
        "total",
    ]
    assert [line.blocks for line in lines] == ["", "0-2", "3-5", "6-8", "9-11", "", ""]
    assert [line.tokens for line in lines] == [None, 197, 97, 50, 28, None, None]
    assert [line.keep for line in lines] == [None, 196, 96, 49, 27, None, None]
    assert [line.share for line in lines[1:5]] == [1, 96 / 196, 0.25, 27 / 196]
    assert lines[1].macs == lines[1].executed == 3 * 378_391_296
    assert lines[2].executed == lines[2].macs - 96 * 2 * 384 * 192


def test_described_short_stages() -> None:
    lines = describe(replace(DEIT_S, locations=(0, 1, 2)), KEEP, "scatter")
    assert [line.blocks for line in lines[1:5]] == ["", "0", "1", "2-11"]


def test_described_dense_model() -> None:
    lines = describe(DEIT_S, (), "dense")
    assert [line.keep for line in lines[1:5]] == [196] * 4
    assert macs_executed(DEIT_S, (), "dense") == dense_macs(DEIT_S)
    assert lines[-1].macs == lines[-1].executed == dense_macs(DEIT_S)


@pytest.mark.parametrize("cost", [DEIT_S, LV_VIT_M, replace(DEIT_S, reuse=False, head_prefix_macs=3)])
def test_json_round_trip(cost: Cost) -> None:
    assert Cost.from_json(json.loads(json.dumps(cost.to_json()))) == cost


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 0}, "tokens: expected an integer of at least 1, found 0"),
        ({"tokens": 196.0}, "tokens: expected an integer"),
        ({"depth": True}, "depth: expected an integer"),
        ({"prefix": -1}, "prefix: expected an integer of at least 0, found -1"),
        ({"stem_macs": "57"}, "stem_macs: expected an integer"),
        ({"locations": 3}, "locations: expected a list, found 3"),
        ({"locations": []}, "locations: expected increasing block indices from 0 to 11"),
        ({"locations": [3, 3, 9]}, "locations: expected increasing"),
        ({"locations": [6, 3, 9]}, "locations: expected increasing"),
        ({"locations": [3, 6, 12]}, "locations: expected increasing"),
        ({"locations": [-1, 6, 9]}, "locations: expected increasing"),
        ({"locations": ["3"]}, "locations: expected increasing"),
        ({"selector": "attention"}, "selector: expected one of mlp, dynamicvit, found 'attention'"),
        ({"approximator": ["identity"]}, "approximator: expected one of"),
        ({"reuse": 1}, "reuse: expected true or false, found 1"),
        ({"flops": 4}, "cost: unknown flops"),
    ],
)
def test_from_json_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cost.from_json(DEIT_S.to_json() | change)


def test_from_json_names_what_is_missing() -> None:
    data = DEIT_S.to_json()
    del data["width"], data["depth"]
    with pytest.raises(ValueError, match="cost: missing depth, width"):
        Cost.from_json(data)


def test_from_json_wants_an_object() -> None:
    with pytest.raises(ValueError, match="cost: expected an object, found list"):
        Cost.from_json([])
