"""Names, counts, references and targets of variants; all that is refused before any work."""

from __future__ import annotations

from dataclasses import replace

import pytest
from known_costs import DEIT_S as COST

from tofe_export.budget import Cost, dense_macs, gmacs, macs, macs_executed
from tofe_export.errors import BudgetError, UsageError
from tofe_export.graph.request import DYNAMIC_TARGETS, TENSORRT_TARGETS, Planned, Request, variants
from tofe_export.keep import Measured

TABLE = (Measured(2.3, (96, 49, 27), (0.5, 0.25, 0.125), "training"),)


def names(planned: list[Planned]) -> list[str]:
    return [variant.name for variant in planned]


def test_the_dense_variant_comes_first() -> None:
    dense, variant = variants(COST, Request(budgets=(2.0,)), ())
    assert (dense.name, dense.reference, dense.keep, dense.plan) == ("dense-fp32-b1", "dense", (), None)
    assert dense.gmacs == dense.gmacs_executed == gmacs(dense_macs(COST))
    assert variant.name == "2.00g-scatter-fp32-b1"
    assert variant.reference == "static-" + "-".join(map(str, variant.keep))
    assert variant.gmacs == gmacs(macs(COST, variant.keep))
    assert variant.gmacs_executed == gmacs(macs_executed(COST, variant.keep, "scatter"))
    assert variant.gmacs_executed > gmacs(macs_executed(COST, variant.keep, "concat"))


def test_every_budget_in_every_lowering_and_batch() -> None:
    request = Request((2.0, 3.0), lowerings=("scatter", "concat"), batches=(1, 8, "dyn"))
    assert names(variants(COST, request, ())) == [
        *(f"dense-fp32-b{batch}" for batch in (1, 8, "dyn")),
        *(
            f"{budget}g-{lowering}-fp32-b{batch}"
            for budget in ("2.00", "3.00")
            for lowering in ("scatter", "concat")
            for batch in (1, 8, "dyn")
        ),
    ]


def test_lowerings_of_one_budget_share_their_reference() -> None:
    _, scatter, concat = variants(COST, Request((2.0,), lowerings=("scatter", "concat")), ())
    assert scatter.reference == concat.reference


def test_targets_follow_the_shapes() -> None:
    request = Request((2.0,), lowerings=("scatter", "adaptive"), batches=(1, "dyn"))
    targets = {variant.name: variant.targets for variant in variants(COST, request, ())}
    assert targets["2.00g-scatter-fp32-b1"] == targets["dense-fp32-b1"] == TENSORRT_TARGETS
    assert targets["2.00g-scatter-fp32-bdyn"] == DYNAMIC_TARGETS
    assert "10.3" not in DYNAMIC_TARGETS
    assert targets["2.00g-adaptive-fp32-b1"] == ()


def test_adaptive_is_made_at_batch_1_alone() -> None:
    made = names(variants(COST, Request((2.0,), lowerings=("adaptive",), batches=(1, 4)), ()))
    assert made == ["dense-fp32-b1", "dense-fp32-b4", "2.00g-adaptive-fp32-b1"]


def test_measured_thresholds_come_with_their_counts() -> None:
    _, variant = variants(COST, Request((2.3,), lowerings=("adaptive",)), TABLE)
    assert variant.plan is not None
    assert variant.plan.thresholds == (0.5, 0.25, 0.125)
    assert variant.keep == (96, 49, 27)


def test_adaptive_answers_are_kept_by_their_thresholds() -> None:
    _, variant = variants(COST, Request((2.3,), lowerings=("adaptive",)), TABLE)
    one, same = (variant.with_thresholds((0.5, 0.25, 0.125), "training") for _ in range(2))
    other = variant.with_thresholds((0.5, 0.25, 0.126), "images")
    assert one.reference == same.reference != other.reference
    assert other.keep == one.keep
    assert other.plan is not None
    assert (other.plan.thresholds, other.plan.source) == ((0.5, 0.25, 0.126), "images")


def test_conditioned_answers_belong_to_their_budget() -> None:
    """The same counts hold other tokens when the selectors are told another budget."""
    request = Request((2.3,), lowerings=("scatter", "adaptive"))
    dense, static, adaptive = variants(COST, request, TABLE, conditioned=True)
    plain = variants(COST, request, TABLE)[1]
    assert (dense.reference, dense.condition_gmacs) == ("dense", None)
    assert static.reference == "static-96-49-27-for-2.30g"
    assert static.condition_gmacs == adaptive.condition_gmacs == 2.3
    assert (plain.reference, plain.condition_gmacs) == ("static-96-49-27", None)
    settled = adaptive.with_thresholds((0.5, 0.25, 0.125), "training").reference
    assert settled.startswith("adaptive-")
    assert settled.endswith("-for-2.30g")
    other = variants(COST, Request((2.5,), keep=(96, 49, 27)), TABLE, conditioned=True)[1]
    assert other.keep == static.keep
    assert other.reference == "static-96-49-27-for-2.50g"


def test_keep_by_hand() -> None:
    _, variant = variants(COST, Request(keep=(96, 49, 27)), TABLE)
    assert (variant.name, variant.keep) == ("2.26g-scatter-fp32-b1", (96, 49, 27))
    _, named = variants(COST, Request(budgets=(2.3,), keep=(96, 49, 27)), TABLE)
    assert named.name == "2.30g-scatter-fp32-b1"


def test_alignment_reaches_the_counts() -> None:
    _, variant = variants(COST, Request((2.0,), align=8), ())
    assert all(count % 8 == 0 for count in variant.keep)


def test_tokens_run_no_head() -> None:
    dense, variant = variants(COST, Request((2.0,), output="tokens"), ())
    assert dense.gmacs - dense.gmacs_executed == pytest.approx(384_000 / 1e9)
    assert variant.gmacs_executed == gmacs(macs_executed(COST, variant.keep, "scatter", "tokens"))


def test_what_is_asked_for_twice_is_made_once() -> None:
    request = Request((2.0, 2.0), lowerings=("scatter", "scatter"), batches=(1, 1))
    assert names(variants(COST, request, ())) == ["dense-fp32-b1", "2.00g-scatter-fp32-b1"]


def test_dense_alone() -> None:
    assert names(variants(COST, Request((2.0,), lowerings=("dense",)), ())) == ["dense-fp32-b1"]


LARGE = replace(COST, tokens=4096)
REFUSALS = [
    (COST, Request(), UsageError, "nothing to export: give --budget"),
    (COST, Request((2.0, 3.0), keep=(96, 49, 27)), UsageError, "name at most one --budget"),
    (COST, Request((2.0, 2.001)), UsageError, r"two variants would be called 2\.00g.*two decimals"),
    (COST, Request((0.1,)), BudgetError, "cannot be met"),
    (COST, Request((float("nan"),)), BudgetError, "A budget is a number"),
    (COST, Request((2.0,), keep=(196, 196, 196)), BudgetError, "more than the budget"),
    (COST, Request(keep=(96, 49)), BudgetError, "expected 3 keep counts"),
    (COST, Request(keep=(96, 49, 0)), BudgetError, "from 1 to 196"),
    (replace(COST, reuse=False), Request(keep=(27, 49, 96)), BudgetError, "without reuse"),
    (COST, Request((2.0,), lowerings=("adaptive",), batches=(4, "dyn")), UsageError, "add --batch 1"),
    (
        replace(COST, approximator="depthwise"),
        Request((2.0,), lowerings=("scatter", "concat")),
        UsageError,
        "depthwise.*--lowering scatter",
    ),
    (LARGE, Request(keep=(9, 9, 9), lowerings=("concat",)), UsageError, "sorts all 4096 tokens"),
    (LARGE, Request(keep=(4000, 9, 9)), UsageError, "would keep 4000 tokens.*fewer than 3840"),
]


@pytest.mark.parametrize(("cost", "request_", "kind", "message"), REFUSALS)
def test_refusals(cost: Cost, request_: Request, kind: type[UsageError], message: str) -> None:
    with pytest.raises(kind, match=message):
        variants(cost, request_, ())


def test_what_is_not_refused() -> None:
    without = replace(COST, approximator="depthwise", reuse=False)  # no approximator runs
    assert len(variants(without, Request((2.0,), lowerings=("concat",)), ())) == 2
    assert len(variants(LARGE, Request(keep=(3839, 9, 9)), ())) == 2
    assert len(variants(LARGE, Request(keep=(4000, 9, 9), lowerings=("adaptive",)), ())) == 2


def test_every_precision_gets_every_variant() -> None:
    request = Request((2.0,), batches=(1, "dyn"), precisions=("fp32", "fp16", "bf16"))
    made = variants(COST, request, ())
    assert [(v.name, v.precision) for v in made] == [
        (name.format(precision, batch), precision)
        for precision in request.precisions
        for name in ("dense-{}-b{}", "2.00g-scatter-{}-b{}")
        for batch in (1, "dyn")
    ]
    assert {v.twin for v in made} == {v.name for v in made if v.precision == "fp32"}
    assert {v.reference for v in made if v.precision == "fp16"} == {v.reference for v in made}


def test_typed_graphs_are_meant_for_strongly_typed_builds() -> None:
    for variant in variants(COST, Request((2.0,), batches=(1, "dyn"), precisions=("fp32", "bf16")), ()):
        assert ("8.6" in variant.targets) == (variant.precision == "fp32")
        assert ("10.3" in variant.targets) == (variant.batch == 1)
        assert "11.4" in variant.targets


def test_a_precision_that_cannot_be_exported() -> None:
    with pytest.raises(
        UsageError, match="--precision fp8 cannot be exported: expected some of fp32, fp16, bf16"
    ):
        variants(COST, Request((2.0,), precisions=("fp32", "fp8")), ())


def test_int8_brings_what_it_is_made_from_and_judged_by() -> None:
    planned = variants(COST, Request((2.0,), batches=(1, "dyn"), precisions=("int8fp16", "int8")), ())
    names = [
        variant.name for variant in planned if not variant.name.startswith("dense") and variant.batch == 1
    ]
    assert names == [f"2.00g-scatter-{form}-b1" for form in ("fp32", "fp16", "int8fp16", "int8")]
    by_name = {variant.name: variant for variant in planned}
    for form in ("int8", "int8fp16"):
        assert by_name[f"dense-{form}-bdyn"].twin == "dense-fp32-bdyn"
    assert by_name["dense-int8-b1"].targets == by_name["dense-int8-bdyn"].targets == ("8.6",)
    assert by_name["dense-int8fp16-b1"].targets == ("10.3", "10.13", "10.16", "11.4")
    assert by_name["dense-int8fp16-bdyn"].targets == ("10.13", "10.16", "11.4")


def test_without_int8_nothing_is_brought() -> None:
    planned = variants(COST, Request((2.0,), precisions=("fp16",)), ())
    assert {variant.precision for variant in planned} == {"fp16"}
