"""What an export is asked for, and what variants that makes: all that can be refused before any work."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tofe_export.budget import Cost, dense_macs, gmacs, macs_executed, printed
from tofe_export.calibration.int8 import FORMS, HALF_FORM
from tofe_export.errors import UsageError
from tofe_export.files import sha256_bytes
from tofe_export.graph.passes.lower_concat import NEEDS_SPATIAL_ORDER, TOPK_LIMIT
from tofe_export.keep import Measured, Plan, plan_for_keep, solve
from tofe_export.manifest import DYNAMIC, Batch

PRECISIONS = ("fp32", "fp16", "bf16", *FORMS)

TENSORRT_TARGETS = ("8.6", "10.3", "10.13", "10.16", "11.4")
DYNAMIC_TARGETS = ("8.6", "10.13", "10.16", "11.4")  # dynamic shapes give wrong results on 10.3 (decision 9)
WEAKLY_TYPED = ("8.6",)  # takes the float32 graph and a flag instead of a typed graph (decision 8)
ADAPTIVE_TARGETS: tuple[str, ...] = ()  # NonZero's sizes depend on data: for runtimes that are dynamic


@dataclass(frozen=True)
class Request:
    """What `tofe-export onnx` was asked for."""

    budgets: tuple[float, ...] = ()
    keep: tuple[int, ...] | None = None
    solved: tuple[Plan, ...] = ()
    """Plans that were arrived at elsewhere, for latencies; instead of budgets and keep."""
    lowerings: tuple[str, ...] = ("scatter",)
    batches: tuple[Batch, ...] = (1,)
    precisions: tuple[str, ...] = ("fp32",)
    output: str = "head"
    """"head", or "tokens" for all patch tokens."""
    input: str = "float32"
    """"float32" for normalised images, or "uint8" for frames that the graph normalises."""
    align: int = 1
    float32: tuple[str, ...] = ()
    """What else stays float32 in typed graphs: see `typing.islands`."""


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
    conditioned: bool = False
    """Whether the selectors know the budget."""

    @property
    def twin(self) -> str:
        """Name of the float32 variant of the same budget, lowering and batch."""
        return f"{self.name.rpartition(f'-{self.precision}-b')[0]}-fp32-b{self.batch}"

    @property
    def condition_gmacs(self) -> float | None:
        """The budget that selectors are told; None where they are not told any."""
        return self.plan.budget_gmacs if self.plan and self.conditioned else None

    @property
    def keep(self) -> tuple[int, ...]:
        """K_1 .. K_S; empty for dense."""
        return self.plan.keep if self.plan else ()

    def with_thresholds(self, thresholds: tuple[float, ...], source: str) -> Planned:
        """The same variant, adaptive, with its thresholds settled: they, not the counts, make the answers."""
        assert self.plan is not None  # dense variants have no thresholds
        plan = replace(self.plan, thresholds=thresholds, source=source)
        key = f"adaptive-{sha256_bytes(repr(thresholds).encode())[:12]}"
        return replace(self, plan=plan, reference=_reference(key, plan, self.conditioned))


def _reference(key: str, plan: Plan, conditioned: bool) -> str:
    """Key of the answers: told another budget, conditioned selectors keep other tokens at equal counts."""
    return f"{key}-for-{printed(plan.budget_gmacs)}g" if conditioned else key


def plans(cost: Cost, request: Request, table: Sequence[Measured]) -> list[Plan]:
    """Keep counts for every budget asked for.

    Raises:
        BudgetError: a budget or keep counts out of range.
        UsageError: nothing was asked for, or both at once.
    """
    if request.solved:
        if request.budgets or request.keep is not None:
            raise UsageError("--budget-ms solves for keep counts: leave out --budget and --keep")
        return list(request.solved)
    if request.keep is not None:
        if len(request.budgets) > 1:
            raise UsageError("--keep gives one set of counts: name at most one --budget with it")
        return [plan_for_keep(cost, request.keep, *request.budgets)]
    if not request.budgets:
        raise UsageError("nothing to export: give --budget GMACS (several with commas), or --keep K1,K2,...")
    return [solve(cost, budget, table, request.align) for budget in request.budgets]


def variants(
    cost: Cost, request: Request, table: Sequence[Measured], *, conditioned: bool = False
) -> list[Planned]:
    """Every variant of a request; per precision the dense one of each batch, then each budget and lowering.

    `conditioned` says that the model's selectors know the budget.

    Raises:
        UsageError: a lowering cannot express this model or batch, or two variants would share a name.
    """
    _refuse(cost, request)
    budgets = plans(cost, request, table)
    planned = []
    for precision in with_bases(request.precisions):
        planned += [_dense(cost, request, batch, precision) for batch in request.batches]
        for plan in budgets:
            for lowering in request.lowerings:
                for batch in request.batches:
                    if lowering == "dense" or (lowering == "adaptive" and batch != 1):
                        continue
                    planned.append(_planned(cost, request, plan, lowering, batch, precision, conditioned))
    planned = list(dict.fromkeys(planned))  # asked for twice is asked for once
    _refuse_equal_names(planned)
    return planned


def with_bases(precisions: Sequence[str]) -> tuple[str, ...]:
    """The precisions, and before INT8 the ones that it is made from and judged by."""
    bases = ["fp32", *(FORMS[name] for name in precisions if name in FORMS)]
    return (
        tuple(dict.fromkeys([*bases, *precisions])) if set(precisions) & FORMS.keys() else tuple(precisions)
    )


def _dense(cost: Cost, request: Request, batch: Batch, precision: str) -> Planned:
    return Planned(
        name=f"dense-{precision}-b{batch}",
        lowering="dense",
        batch=batch,
        precision=precision,
        plan=None,
        gmacs=gmacs(dense_macs(cost)),
        gmacs_executed=gmacs(macs_executed(cost, (), "dense", _output(request))),
        reference="dense",
        targets=targets_for("dense", batch, precision),
    )


def _planned(
    cost: Cost,
    request: Request,
    plan: Plan,
    lowering: str,
    batch: Batch,
    precision: str,
    conditioned: bool,
) -> Planned:
    name = f"{printed(plan.budget_gmacs)}g-{lowering}-{precision}-b{batch}"
    executed = gmacs(macs_executed(cost, plan.keep, lowering, _output(request)))
    reference = _reference(f"static-{'-'.join(map(str, plan.keep))}", plan, conditioned)
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
        precision=precision,
        plan=plan,
        gmacs=plan.gmacs,
        gmacs_executed=executed,
        reference=reference,
        targets=targets_for(lowering, batch, precision),
        conditioned=conditioned,
    )


def _output(request: Request) -> str:
    return "tokens" if request.output == "tokens" else "logits"


def targets_for(lowering: str, batch: Batch, precision: str) -> tuple[str, ...]:
    """The TensorRT versions that such a variant is meant for."""
    if lowering == "adaptive":
        return ADAPTIVE_TARGETS
    targets = DYNAMIC_TARGETS if batch == DYNAMIC else TENSORRT_TARGETS
    if precision in FORMS and precision != HALF_FORM:  # elsewhere float32: slower than fp16 on newer versions
        return tuple(t for t in targets if t in WEAKLY_TYPED)
    return targets if precision == "fp32" else tuple(t for t in targets if t not in WEAKLY_TYPED)


def _refuse(cost: Cost, request: Request) -> None:
    if unknown := [name for name in request.precisions if name not in PRECISIONS]:
        raise UsageError(
            f"--precision {','.join(unknown)} cannot be exported: expected some of {', '.join(PRECISIONS)}"
        )
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
                f"{list(variant.keep)} tokens: budgets are told apart as they are printed, by two decimals"
            )
