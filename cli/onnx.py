"""`tofe-export onnx --ckpt FILE --budget 2.0`: from a checkpoint to a bundle of static ONNX graphs.

All budgets, lowerings and batches of one call come from one trace. The dense variant is always made beside
them. An existing bundle of the same checkpoint is extended; `--force` replaces it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofe_export.budget import printed
from tofe_export.cli import console, host, int8_options, options
from tofe_export.cli.int8_report import int8_table
from tofe_export.cli.onnx_latency import plans_for
from tofe_export.cli.onnx_report import typed_table
from tofe_export.errors import VerdictFailed
from tofe_export.graph.collection import no_collection

if TYPE_CHECKING:
    from tofe_export.bundle import Bundle
    from tofe_export.graph.export import Quantizing
    from tofe_export.graph.request import Planned, Request
    from tofe_export.model.checkpoint import Checkpoint

_STEPS = 100
DEFAULT_PRECISIONS = ("fp32", "fp16")


@click.command("onnx", short_help="Checkpoint to a bundle of static ONNX graphs.")
@options.required_ckpt
@options.budgets
@options.keep
@options.comma_list(
    "--budget-ms", "budgets_ms", options.number_item, "MS,...", "Budgets in milliseconds per run; may repeat."
)
@click.option(
    "--latency",
    type=options.PATH,
    metavar="TABLE",
    help="The device's latencies, for --budget-ms (from `advise --out` or `bench --table`).",
)
@options.align
@options.lowerings
@options.batches
@options.precisions
@options.comma_list(
    "--float32",
    "float32",
    options.name_item,
    "NAME,...",
    "What else stays float32 in half-precision graphs: softmax, stream (the residual stream), or how node "
    "names begin (blocks.11.mlp); may repeat.",
)
@click.option(
    "--output",
    type=click.Choice(["head", "tokens"]),
    default="head",
    show_default=True,
    help="What the graph returns: the head's logits (or features), or all patch tokens in spatial order.",
)
@click.option(
    "--input",
    "input_type",
    type=click.Choice(["float32", "uint8"]),
    default="float32",
    show_default=True,
    help="What the graph takes: normalised images (B, 3, H, W), or camera frames (B, H, W, 3), which it "
    "normalises itself.",
)
@click.option(
    "--images",
    type=options.PATH,
    metavar="DIR",
    help="Pictures for the reference; they travel in the bundle. Default: a built-in set.",
)
@options.num_images
@int8_options.int8_options
@click.option(
    "--out",
    type=options.PATH,
    metavar="DIR",
    default=options.DEFAULT_BUNDLE,
    show_default=True,
    help="The bundle to make or extend.",
)
@click.option("--force", is_flag=True, help="Replace an existing bundle instead of extending it.")
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@options.json_target
@options.quiet
@no_collection()
def command(
    ckpt: Path,
    budgets: tuple[float, ...],
    keep: tuple[int, ...] | None,
    budgets_ms: tuple[float, ...],
    latency: Path | None,
    align: int,
    lowerings: tuple[str, ...],
    batches: tuple[Any, ...],
    precisions: tuple[str, ...],
    float32: tuple[str, ...],
    output: str,
    input_type: str,
    images: Path | None,
    num_images: int | None,
    out: Path,
    force: bool,
    dry_run: bool,
    json_target: str | None,
    **quantising: Any,  # noqa: ANN401 - what int8_options declares
) -> None:
    """Export a ToFe checkpoint for one or more budgets (GMACs).

    Writes one bundle directory: a graph per budget, lowering, batch and precision (fp32 and fp16, unless
    --precision names others), the dense graphs to compare with, shared weights, and PyTorch's answers on
    reference images for `tofe-export verify`. Half-precision graphs are computed on reference images with
    every tensor rounded before they are written; what they need in float32 stays float32.

    INT8 (--precision int8 for TensorRT 8.6 and ONNX Runtime, int8fp16 for TensorRT 10 and newer) is
    calibrated on up to 512 of the pictures in --images, or as `tofe-export calibrate` did before.
    """
    host.require_export()
    from tofe_export.graph.export import export, pictures_from
    from tofe_export.graph.request import Request, variants

    checkpoint = host.load(ckpt)
    solved = plans_for(
        checkpoint,
        budgets_ms,
        latency,
        lowerings=lowerings,
        batches=batches,
        precisions=precisions,
        output=output,
        align=align,
    )
    request = Request(
        budgets=budgets,
        keep=keep,
        solved=solved,
        lowerings=lowerings or ("scatter",),
        batches=batches or (1,),
        precisions=precisions or DEFAULT_PRECISIONS,
        output=output,
        input=input_type,
        align=align,
        float32=float32,
    )
    conditioned = checkpoint.model.structure.conditioned
    planned = variants(checkpoint.model.cost(), request, checkpoint.table, conditioned=conditioned)
    console.note(plan_text(checkpoint, planned))
    warn_untrained_budgets(checkpoint, planned)
    if dry_run:
        console.emit(plan_json(checkpoint, planned), json_target)
        return
    pictures = pictures_from(images, num_images) if images or num_images else None
    quantizing = quantising_of(checkpoint, request, images, quantising)
    with console.progress("export:", _STEPS) as bar:
        bundle = export(checkpoint, request, out, pictures, quantizing=quantizing, force=force, say=bar.show)
    console.say(summary(bundle, [variant.name for variant in planned]))
    console.emit(bundle.manifest.to_json(), json_target)
    lint_targets(bundle, [variant.name for variant in planned])


def quantising_of(
    checkpoint: Checkpoint, request: Request, images: Path | None, given: dict[str, Any]
) -> Quantizing | None:
    """How INT8 variants are made; None where none are. Raises ImageError."""
    from tofe_export.calibration.int8 import FORMS
    from tofe_export.graph.export import Quantizing

    settings, frames = int8_options.settings_of(given), request.input == "uint8"
    if not FORMS.keys() & set(request.precisions):
        return None
    if images is None:
        return Quantizing(settings)
    pictures = int8_options.calibration_pictures(images, None, checkpoint.preprocessing, frames=frames)
    return Quantizing(settings, pictures)


def warn_untrained_budgets(checkpoint: Checkpoint, planned: list[Planned]) -> None:
    """Say which budgets lie outside the range that conditioned selectors were trained for."""
    asked = dict.fromkeys(v.condition_gmacs for v in planned if v.condition_gmacs is not None)
    if outside := checkpoint.untrained_budgets(asked):
        trained = [row.budget_gmacs for row in checkpoint.table]
        console.warn(
            f"budget {', '.join(map(printed, outside))} GMACs: the selectors were trained for "
            f"{printed(min(trained))} to {printed(max(trained))} and are extrapolating. Measure the accuracy "
            "with `tofe-export eval`, or train with this budget among the others"
        )


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
            f"budget {printed(variant.plan.budget_gmacs)} GMACs, {variant.lowering}: keep "
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
    made = [variant for variant in bundle.manifest.variants if variant.name in names]
    rows = [
        (v.name, printed(v.gmacs_executed), printed(v.gmacs), "/".join(map(str, v.keep)) if v.keep else "all")
        for v in made
    ]
    table = console.table(("variant", "GMACs run", "paper's", "keep"), rows, right=(1, 2))
    where = "" if bundle.path == options.DEFAULT_BUNDLE else f" {bundle.path}"
    more = f"{typed_table(made)}{int8_table(made)}"
    return f"{table}\n{more}\nwrote {bundle.path}; prove it with: tofe-export verify{where}"
