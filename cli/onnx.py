"""`tofe-export onnx --ckpt FILE --budget 2.0`: from a checkpoint to a bundle of static ONNX graphs.

All budgets, lowerings and batches of one call come from one trace. The dense variant is always made beside
them. An existing bundle of the same checkpoint is extended; `--force` replaces it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofe_export.cli import console, host, options
from tofe_export.errors import UsageError, VerdictFailed

if TYPE_CHECKING:
    from tofe_export.bundle import Bundle
    from tofe_export.graph.request import Planned
    from tofe_export.model.checkpoint import Checkpoint

_STEPS = 100


@click.command("onnx", short_help="Checkpoint to a bundle of static ONNX graphs.")
@options.required_ckpt
@options.budgets
@options.keep
@options.align
@options.lowerings
@options.batches
@options.precisions
@click.option(
    "--output",
    type=click.Choice(["head", "tokens"]),
    default="head",
    show_default=True,
    help="What the graph returns: the head's logits (or features), or all patch tokens in spatial order.",
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Pictures for the reference; they travel in the bundle. Default: a built-in set.",
)
@options.num_images
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    default=options.DEFAULT_BUNDLE,
    show_default=True,
    help="The bundle to make or extend.",
)
@click.option("--force", is_flag=True, help="Replace an existing bundle instead of extending it.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@options.json_target
@options.quiet
def command(
    ckpt: Path,
    budgets: tuple[float, ...],
    keep: tuple[int, ...] | None,
    align: int,
    lowerings: tuple[str, ...],
    batches: tuple[Any, ...],
    precisions: tuple[str, ...],
    output: str,
    images: Path | None,
    num_images: int | None,
    out: Path,
    force: bool,
    dry_run: bool,
    json_target: str | None,
) -> None:
    """Export a ToFe checkpoint for one or more budgets (GMACs).

    Writes one bundle directory: a graph per budget, lowering and batch, the dense graph to compare with, one
    weights file, and PyTorch's answers on reference images for `tofe-export verify`.
    """
    host.require_export()
    from tofe_export.graph.export import export, pictures_from
    from tofe_export.graph.request import Request, variants

    if unknown := [name for name in precisions if name != "fp32"]:
        raise UsageError(
            f"--precision {','.join(unknown)} cannot be exported yet: this version writes fp32 graphs"
        )
    request = Request(
        budgets=budgets,
        keep=keep,
        lowerings=lowerings or ("scatter",),
        batches=batches or (1,),
        output=output,
        align=align,
    )
    checkpoint = host.load(ckpt)
    planned = variants(checkpoint.model.cost(), request, checkpoint.table)
    console.note(plan_text(checkpoint, planned))
    if dry_run:
        console.emit(plan_json(checkpoint, planned), json_target)
        return
    pictures = pictures_from(images, num_images) if images or num_images else None
    with console.progress("export:", _STEPS) as bar:
        bundle = export(checkpoint, request, out, pictures, force=force, say=bar.show)
    console.say(summary(bundle, [variant.name for variant in planned]))
    console.emit(bundle.manifest.to_json(), json_target)
    lint_targets(bundle, [variant.name for variant in planned])


def lint_targets(bundle: Bundle, names: list[str]) -> None:
    """Check what was written against the TensorRT versions that it is meant for. Raises VerdictFailed."""
    from tofe_export.cli import lint
    from tofe_export.lint.report import details

    made = [variant for variant in bundle.manifest.variants if variant.name in names]
    checked = lint.check(lint.graphs_of(bundle, made, ()))
    for one in checked:
        if any(finding.severity != "advice" for found in one.findings.values() for finding in found):
            console.note(f"\n{details(one)}")
    if bad := [one.name for one in checked if not one.clean]:
        raise VerdictFailed(f"lint: errors in {', '.join(bad)}, for the TensorRT versions named above")
    versions = dict.fromkeys(target for variant in made for target in variant.targets)
    console.note(f"lint: no errors for TensorRT {', '.join(versions) or '(meant for none)'}")


def plan_text(checkpoint: Checkpoint, planned: list[Planned]) -> str:
    """Per budget and lowering: tokens per stage and MACs in both accounts."""
    from tofe_export.budget import describe
    from tofe_export.cli.inspect import stage_table

    cost, parts = checkpoint.model.cost(), []
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for variant in planned:
        if variant.plan is None or (variant.lowering, variant.keep) in seen:
            continue
        seen.add((variant.lowering, variant.keep))
        rows = describe(cost, variant.keep, variant.lowering)
        parts.append(
            f"budget {variant.plan.budget_gmacs:.2f} GMACs, {variant.lowering}: keep "
            f"{'/'.join(map(str, variant.keep))} of {cost.tokens} tokens ({variant.plan.source})\n"
            f"{stage_table(rows)}\n"
        )
    return "\n".join(parts)


def plan_json(checkpoint: Checkpoint, planned: list[Planned]) -> dict[str, Any]:
    """The plan for machines."""
    from tofe_export.budget import describe

    cost = checkpoint.model.cost()
    return {
        "backbone": checkpoint.model.backbone.name,
        "cost": cost.to_json(),
        "variants": [
            {
                "name": v.name,
                "lowering": v.lowering,
                "batch": v.batch,
                "precision": v.precision,
                "budget_gmacs": v.plan.budget_gmacs if v.plan else None,
                "keep": list(v.keep) or None,
                "source": v.plan.source if v.plan else "backbone",
                "gmacs": v.gmacs,
                "gmacs_executed": v.gmacs_executed,
                "stages": [vars(row) for row in describe(cost, v.keep, v.lowering)],
            }
            for v in planned
        ],
    }


def summary(bundle: Bundle, names: list[str]) -> str:
    """What was written, and what to do next."""
    rows = [
        (v.name, f"{v.gmacs_executed:.2f}", f"{v.gmacs:.2f}", "/".join(map(str, v.keep)) if v.keep else "all")
        for v in bundle.manifest.variants
        if v.name in names
    ]
    table = console.table(("variant", "GMACs run", "paper's", "keep"), rows, right=(1, 2))
    where = "" if bundle.path == options.DEFAULT_BUNDLE else f" {bundle.path}"
    return f"{table}\n\nwrote {bundle.path}; prove it with: tofe-export verify{where}"
