"""`tofe-export eval --ckpt FILE --data DIR`: accuracy of a checkpoint in PyTorch, and its use of tokens.

`static` keeps the same number of tokens in every image, as the default export does; `adaptive` lets each
image decide, one at a time; `dense` is the backbone without freezing. For parity of exported graphs see
`verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tofe_export.budget import printed
from tofe_export.cli import console, host, options
from tofe_export.errors import MissingBackend, UsageError

if TYPE_CHECKING:
    from tofe_export.keep import Plan
    from tofe_export.model.checkpoint import Checkpoint
    from tofe_export.model.freezer import Freezer
    from tofe_export.training.evaluate import Evaluation
    from tofe_export.training.samples import Samples

MODES = ("static", "adaptive", "dense")


@click.command("eval", short_help="Accuracy and use of tokens of a checkpoint, in PyTorch.")
@options.required_ckpt
@click.option(
    "--data",
    required=True,
    metavar="DIR",
    help="A folder with val/, or with one sub-folder per class; tar files, hfds/NAME, torch/NAME.",
)
@click.option(
    "--mode", type=click.Choice(MODES), default="static", show_default=True, help="How tokens are frozen."
)
@options.budgets
@options.num_images
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Images at a time."
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, show_default=True, help="Reading processes."
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda where there is one]")
@options.json_target
@options.quiet
def command(
    ckpt: Path,
    data: str,
    mode: str,
    budgets: tuple[float, ...],
    num_images: int | None,
    batch_size: int,
    workers: int,
    device: str | None,
    json_target: str | None,
) -> None:
    """Measure top-1 and top-5, GMACs per image, and kept and reused tokens per stage.

    Without --budget every budget that the checkpoint was trained for is measured.
    """
    host.require_export()
    checkpoint = host.load(ckpt)
    planned = plans(checkpoint, mode, budgets)
    checkpoint.model.to(find_device(device))
    images = pictures(checkpoint, data, num_images)
    measured = [(plan, judge(checkpoint, images, mode, plan, batch_size, workers)) for plan in planned]
    console.say(text(measured))
    console.emit(
        {
            "ckpt": str(ckpt),
            "data": data,
            "trained": checkpoint.trained,
            "results": [
                evaluation.to_json() | {"budget_gmacs": plan.budget_gmacs if plan else None}
                for plan, evaluation in measured
            ],
        },
        json_target,
    )


def plans(checkpoint: Checkpoint, mode: str, budgets: Sequence[float]) -> list[Plan | None]:
    """What to measure: counts per budget, or None for the dense model.

    Raises BudgetError, and UsageError where budgets or thresholds are missing or meaningless.
    """
    from tofe_export.keep import solve

    if mode == "dense":
        if budgets:
            raise UsageError("--mode dense freezes nothing: leave out --budget")
        return [None]
    wanted = budgets or [row.budget_gmacs for row in checkpoint.table]
    if not wanted:
        raise UsageError("the checkpoint was trained for no budget: give --budget, or --mode dense")
    found = [solve(checkpoint.model.cost(), budget, checkpoint.table) for budget in wanted]
    without = [plan for plan in found if plan.thresholds is None]
    if mode == "adaptive" and without:
        trained = ", ".join(printed(row.budget_gmacs) for row in checkpoint.table if row.thresholds)
        raise UsageError(
            f"--mode adaptive needs thresholds, and the checkpoint has none for "
            f"{printed(without[0].budget_gmacs)} GMACs, but for {trained or 'no budget'}"
        )
    return list(found)


def find_device(name: str | None) -> str:
    """A device that torch can use. Raises UsageError (no such name) and MissingBackend (not there)."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise MissingBackend(
            f"--device {name} cannot be used: {reason}. Leave it out, or give cpu"
        ) from error
    return name


def pictures(checkpoint: Checkpoint, data: str, count: int | None) -> Samples:
    """Labelled images, prepared as the checkpoint says. Raises InputError."""
    from tofe_export.training.data import check_classes, open_held_out

    model = checkpoint.model
    opened = open_held_out(data, checkpoint.preprocessing, (model.stages, model.backbone.tokens), count)
    check_classes(opened, model.backbone.num_classes, checkpoint.classes)
    return opened.samples


def judge(
    checkpoint: Checkpoint, images: Samples, mode: str, plan: Plan | None, batch_size: int, workers: int
) -> Evaluation:
    """One row of the answer, with progress; says how many pictures could not be read."""
    from tofe_export.training.evaluate import evaluate, in_batches

    freezer = freezer_of(mode, plan)
    if plan is not None:
        checkpoint.model.set_budget(plan.budget_gmacs)
    batches = in_batches(images, range(len(images)), batch_size, workers)
    with console.progress("eval", len(images)) as progress:
        evaluation = evaluate(checkpoint.model, batches, freezer, advance=progress.advance)
    if lost := len(images) - len(evaluation.rows):
        console.warn(f"{lost} of {len(images)} pictures could not be read and do not count")
    return evaluation


def freezer_of(mode: str, plan: Plan | None) -> Freezer | None:
    """How tokens are frozen."""
    from tofe_export.model.freezer import AdaptiveFreezer, StaticFreezer

    if plan is None:
        return None
    return AdaptiveFreezer(plan.thresholds or ()) if mode == "adaptive" else StaticFreezer(plan.keep)


def text(measured: Sequence[tuple[Plan | None, Evaluation]]) -> str:
    """Accuracy and cost, then tokens per stage, then in adaptive mode how they are distributed."""
    parts = [accuracy_table(measured)]
    if any(plan for plan, _ in measured):
        parts.append(token_table(measured))
    return "\n\n".join(parts)


def accuracy_table(measured: Sequence[tuple[Plan | None, Evaluation]]) -> str:
    """One line per budget."""
    images = len(measured[0][1].rows)
    headers = (f"{measured[0][1].mode}, {images} pictures", "top-1", "top-5", "GMACs run", "paper's")
    rows = [
        (
            name_of(plan),
            f"{evaluation.accuracy(1):.2%}",
            f"{evaluation.accuracy(5):.2%}",
            printed(float(evaluation.gmacs_executed.mean())),
            printed(float(evaluation.gmacs.mean())),
        )
        for plan, evaluation in measured
    ]
    return console.table(headers, rows, right=(1, 2, 3, 4))


def token_table(measured: Sequence[tuple[Plan | None, Evaluation]]) -> str:
    """One line per budget and stage: tokens kept, those that the stage before had frozen, and the spread."""
    headers = ("budget", "stage", "kept", "reused", "of kept", "5% to 95% of pictures keep")
    rows: list[tuple[object, ...]] = []
    for plan, evaluation in measured:
        kept, spread = evaluation.kept.mean(axis=0), evaluation.spread()
        reused = [None, *evaluation.reused.mean(axis=0)]
        for stage, (mean, again, (low, high)) in enumerate(zip(kept, reused, spread, strict=True), start=1):
            reuse = (None, None) if again is None else (f"{again:.2f}", f"{again / mean:.2%}")
            rows.append((name_of(plan), stage, f"{mean:.2f}", *reuse, f"{low:.0f} to {high:.0f}"))
    return console.table(headers, rows, right=(1, 2, 3, 4, 5))


def name_of(plan: Plan | None) -> str:
    """A budget as people read it."""
    return "dense" if plan is None else f"{printed(plan.budget_gmacs)} GMACs"
