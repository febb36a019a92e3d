"""What an export is asked for, and what variants that makes: all that can be refused before any work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tofe_export.budget import Cost, dense_macs, gmacs, macs_executed, printed
from tofe_export.errors import UsageError
from tofe_export.files import sha256_bytes
from tofe_export.graph.passes.lower_concat import NEEDS_SPATIAL_ORDER, TOPK_LIMIT
from tofe_export.keep import Measured, Plan, plan_for_keep, solve
from tofe_export.manifest import DYNAMIC, Batch

TENSORRT_TARGETS = ("8.6", "10.3", "10.13", "10.16", "11.4")
DYNAMIC_TARGETS = ("8.6", "10.13", "10.16", "11.4")  # dynamic shapes give wrong results on 10.3 (decision 9)
ADAPTIVE_TARGETS: tuple[str, ...] = ()  # NonZero's sizes depend on data: for runtimes that are dynamic


@dataclass(frozen=True)
class Request:
    """What `tofe-export onnx` was asked for."""

    budgets: tuple[float, ...] = ()
    keep: tuple[int, ...] | None = None
    lowerings: tuple[str, ...] = ("scatter",)
    batches: tuple[Batch, ...] = (1,)
    precision: str = "fp32"
    output: str = "head"
    """"head", or "tokens" for all patch tokens."""
    align: int = 1


@dataclass(frozen=True)
class Planned:
    """One variant to be made."""

    name: str
    lowering: str
    batch: Batch
    precision: str
    plan: Plan | None
    """None for dense."""
    gmacs: float
    gmacs_executed: float
    reference: str
    targets: tuple[str, ...]

    @property
    def keep(self) -> tuple[int, ...]:
        """K_1 .. K_S; empty for dense."""
        return self.plan.keep if self.plan else ()

    def with_thresholds(self, thresholds: tuple[float, ...], source: str) -> Planned:
        """The same variant, adaptive, with its thresholds settled: they, not the counts, make the answers."""
        assert self.plan is not None  # dense variants have no thresholds
        plan = replace(self.plan, thresholds=thresholds, source=source)
        return replace(self, plan=plan, reference=f"adaptive-{sha256_bytes(repr(thresholds).encode())[:12]}")


def plans(cost: Cost, request: Request, table: Sequence[Measured]) -> list[Plan]:
    """Keep counts for every budget asked for.

    Raises:
        BudgetError: a budget or keep counts out of range.
        UsageError: nothing was asked for, or both at once.
    """
    if request.keep is not None:
        if len(request.budgets) > 1:
            raise UsageError("--keep gives one set of counts: name at most one --budget with it")
        return [plan_for_keep(cost, request.keep, *request.budgets)]
    if not request.budgets:
        raise UsageError("nothing to export: give --budget GMACS (several with commas), or --keep K1,K2,...")
    return [solve(cost, budget, table, request.align) for budget in request.budgets]


def variants(cost: Cost, request: Request, table: Sequence[Measured]) -> list[Planned]:
    """Every variant of a request: the dense one of each batch, then each budget in each lowering.

    Raises:
        UsageError: a lowering cannot express this model or batch, or two variants would share a name.
    """
    _refuse(cost, request)
    output = "tokens" if request.output == "tokens" else "logits"
    dense = gmacs(dense_macs(cost))
    executed = gmacs(macs_executed(cost, (), "dense", output))
    planned = [
        Planned(
            name=f"dense-{request.precision}-b{batch}",
            lowering="dense",
            batch=batch,
            precision=request.precision,
            plan=None,
            gmacs=dense,
            gmacs_executed=executed,
            reference="dense",
            targets=_targets("dense", batch),
        )
        for batch in request.batches
    ]
    for plan in plans(cost, request, table):
        for lowering in request.lowerings:
            for batch in request.batches:
                if lowering == "dense" or (lowering == "adaptive" and batch != 1):
                    continue
                planned.append(_planned(cost, request, plan, lowering, batch, output))
    planned = list(dict.fromkeys(planned))  # asked for twice is asked for once
    _refuse_equal_names(planned)
    return planned


def _planned(cost: Cost, request: Request, plan: Plan, lowering: str, batch: Batch, output: str) -> Planned:
    name = f"{printed(plan.budget_gmacs)}g-{lowering}-{request.precision}-b{batch}"
    executed = gmacs(macs_executed(cost, plan.keep, lowering, output))
    reference = f"static-{'-'.join(map(str, plan.keep))}"
    if lowering == "adaptive":
        reference = "adaptive"  # `with_thresholds` says which
    elif max(plan.keep) >= TOPK_LIMIT:
        raise UsageError(
            f"{name} would keep {max(plan.keep)} tokens in one stage, and TensorRT's TopK takes fewer than "
            f"{TOPK_LIMIT}: give a smaller budget or smaller counts"
        )
    return Planned(
        name=name,
        lowering=lowering,
        batch=batch,
        precision=request.precision,
        plan=plan,
        gmacs=plan.gmacs,
        gmacs_executed=executed,
        reference=reference,
        targets=_targets(lowering, batch),
    )


def _targets(lowering: str, batch: Batch) -> tuple[str, ...]:
    if lowering == "adaptive":
        return ADAPTIVE_TARGETS
    return DYNAMIC_TARGETS if batch == DYNAMIC else TENSORRT_TARGETS


def _refuse(cost: Cost, request: Request) -> None:
    if "concat" in request.lowerings and cost.approximator == "depthwise" and cost.reuse:
        raise UsageError(NEEDS_SPATIAL_ORDER)
    if "concat" in request.lowerings and cost.tokens >= TOPK_LIMIT:
        raise UsageError(
            f"`concat` sorts all {cost.tokens} tokens, and TensorRT's TopK takes fewer than {TOPK_LIMIT}: "
            "use --lowering scatter"
        )
    if "adaptive" in request.lowerings and 1 not in request.batches:
        raise UsageError("`adaptive` decides per image and runs at batch 1: add --batch 1")


def _refuse_equal_names(planned: Iterable[Planned]) -> None:
    seen: dict[str, Planned] = {}
    for variant in planned:
        other = seen.setdefault(variant.name, variant)
        if other is not variant:
            raise UsageError(
                f"two variants would be called {variant.name}, keeping {list(other.keep)} and "
                f"{list(variant.keep)} tokens: budgets are told apart by two decimals"
            )
