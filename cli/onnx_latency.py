"""`tofe-export onnx --budget-ms MS --latency TABLE`: keep counts for milliseconds, from a measured table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_export.cli import advise_report, bench_table, console
from tofe_export.errors import UsageError

if TYPE_CHECKING:
    from tofe_export.keep import Plan
    from tofe_export.latency.table import Entry
    from tofe_export.model.checkpoint import Checkpoint


def plans_for(
    checkpoint: Checkpoint,
    budgets_ms: Sequence[float],
    latency: Path | None,
    *,
    lowerings: Sequence[str],
    batches: Sequence[Any],
    precisions: Sequence[str],
    output: str,
    align: int,
) -> tuple[Plan, ...]:
    """Plans for these latencies; none without --budget-ms.

    Raises `UsageError` (options that do not go together), `InputError` (the table is of another model or has
    no such entry) and `BudgetError` (a latency out of range).
    """
    if latency is None and not budgets_ms:
        return ()
    if latency is None:
        raise UsageError(
            "--budget-ms needs the latencies of the device: --latency TABLE. Measure them: tofe-export "
            f"advise --model {checkpoint.model.backbone.name} --out TABLE"
        )
    if not budgets_ms:
        raise UsageError("--latency is there for --budget-ms: give that, or leave it out")
    if output == "tokens":
        raise UsageError("--budget-ms: tables are measured with the head, and --output tokens has none")
    from tofe_export.latency.predict import Predictor
    from tofe_export.latency.solve import solve_ms

    entry = entry_for(checkpoint, latency, lowerings, batches, precisions)
    predictor = Predictor(entry)
    plans: dict[tuple[int, ...], Plan] = {}
    for ms in budgets_ms:
        plan = solve_ms(predictor, ms, checkpoint.table, align)
        if plan.keep in plans:
            console.note(f"{ms:g} ms: the same tokens as before ({plans[plan.keep].source}), made once")
        plans.setdefault(plan.keep, plan)
    return tuple(plans.values())


def entry_for(
    checkpoint: Checkpoint,
    path: Path,
    lowerings: Sequence[str],
    batches: Sequence[Any],
    precisions: Sequence[str],
) -> Entry:
    """The one entry that milliseconds mean. Raises `InputError`, and `UsageError` where several fit."""
    from tofe_export.latency.ladder import heads_of
    from tofe_export.latency.table import Table, find_entries

    table, model = Table.load(path), checkpoint.model
    cost, heads = model.cost(), heads_of(model)
    for entry in table.entries:
        if entry.image_size == model.backbone.image_size:
            entry.require(cost, heads, path)
    found = find_entries(
        table.entries,
        path,
        image_sizes=[model.backbone.image_size],
        lowerings=lowerings or ("scatter",),
        batches=batches or (1,),
        precisions=precisions,
    )
    if len(found) > 1:
        raise UsageError(
            "a latency belongs to one lowering, precision and batch, and these are asked for: "
            f"{'; '.join(entry.name for entry in found)}. Name one of each beside --budget-ms"
        )
    console.note(f"latencies of {advise_report.whose(table)}")
    bench_table.warn_noise([found[0]])
    return found[0]
