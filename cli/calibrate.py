"""`tofe-export calibrate --ckpt FILE --images DIR`, or `calibrate [BUNDLE] --images DIR`.

Three numbers of a deployed model must come from the user's own pictures. Two belong to the checkpoint: how
many tokens each stage keeps for a budget (`tokens`), and from which score on a token counts in the adaptive
lowering (`thresholds`). The third belongs to the graphs: the ranges of INT8 activations (`int8`). So the
command takes one or the other, and an option that says nothing about it is refused, not ignored. No picture
needs a label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tofe_export.cli import int8_options, options
from tofe_export.cli.calibrate_bundle import calibrate_bundle
from tofe_export.cli.calibrate_checkpoint import calibrate_checkpoint
from tofe_export.cli.calibrate_pictures import Given
from tofe_export.errors import UsageError

CHECKPOINT_PARTS = ("tokens", "thresholds")
BUNDLE_PARTS = ("int8",)
OF_A_CHECKPOINT = ("budgets_ms", "latency", "align", "against", "out", "force", "device")
OF_A_BUNDLE = ("names", "int8_method", "min_agreement", "int8_stem")

_FILE = options.PATH


@click.command("calibrate", short_help="Keep counts, thresholds and INT8 ranges from your own pictures.")
@click.argument("bundle", type=_FILE, required=False)
@options.ckpt
@click.option(
    "--images", type=_FILE, required=True, metavar="DIR", help="Pictures, at any depth; no labels are needed."
)
@click.option(
    "--num-images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use a sample of N pictures.  [default: 512, or all where there are fewer]",
)
@click.option("--seed", type=options.Seed(), default=0, show_default=True, help="Of the sample.")
@click.option(
    "--max-corrupt",
    type=options.FiniteRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of unreadable pictures above which nothing is calibrated; one may be in any case.",
)
@options.comma_list(
    "--only",
    "parts",
    options.choice_item((*CHECKPOINT_PARTS, *BUNDLE_PARTS)),
    "PART,...",
    "tokens, thresholds (of a checkpoint), int8 (of a bundle); may repeat.  [default: all there are]",
)
@options.budgets
@options.comma_list(
    "--budget-ms", "budgets_ms", options.number_item, "MS,...", "Budgets in milliseconds per run; may repeat."
)
@click.option(
    "--latency", type=_FILE, metavar="TABLE", help="The device's latencies, for --budget-ms (from `advise`)."
)
@options.align
@click.option(
    "--against",
    type=click.Choice(["dense", "adaptive"]),
    default="dense",
    show_default=True,
    help="Tokens: whose answers the answers with fewer tokens are compared with.",
)
@click.option("--out", type=_FILE, metavar="FILE", help="The checkpoint to write.")
@click.option("--force", is_flag=True, help="Replace OUT, or without --out the checkpoint itself.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images at a time."
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda where there is one]")
@options.names
@options.lowerings
@options.batches
@options.precisions
@int8_options.int8_options
@options.json_target
@options.quiet
@click.pass_context
def command(
    context: click.Context,
    /,
    bundle: Path | None,
    ckpt: Path | None,
    images: Path,
    num_images: int | None,
    seed: int,
    max_corrupt: float,
    batch_size: int,
    parts: tuple[str, ...],
    json_target: str | None,
    **given: Any,  # noqa: ANN401 - the options of either kind
) -> None:
    """Measure on pictures what training could not know.

    With --ckpt: for each --budget (else those that the checkpoint was trained for) the keep counts whose
    answers change least, and thresholds for the adaptive lowering, written into a checkpoint. With BUNDLE:
    INT8 variants of its float32 graphs, with ranges from these pictures.
    """
    pictures = Given(images, num_images, seed, batch_size, max_corrupt)
    if ckpt is not None:
        if bundle is not None:
            raise UsageError(f"give --ckpt {ckpt} or the bundle {bundle}, not both")
        _refuse_parts(parts, CHECKPOINT_PARTS, "a checkpoint", "a bundle, without --ckpt")
        _refuse_options(context, OF_A_BUNDLE, "a bundle, and --ckpt names a checkpoint")
        calibrate_checkpoint(ckpt, parts or CHECKPOINT_PARTS, given, pictures, json_target)
    else:
        _refuse_parts(parts, BUNDLE_PARTS, "a bundle", "a checkpoint: give --ckpt FILE")
        _refuse_options(context, OF_A_CHECKPOINT, "a checkpoint: give --ckpt FILE, or leave it out")
        calibrate_bundle(bundle, given, pictures, json_target)


def _refuse_parts(parts: tuple[str, ...], there: tuple[str, ...], of: str, needed: str) -> None:
    if others := [part for part in parts if part not in there]:
        raise UsageError(f"--only {','.join(others)}: {of} has no such part, it needs {needed}")


def _refuse_options(context: click.Context, names: tuple[str, ...], why: str) -> None:
    flags = {param.name: param.opts[0] for param in context.command.params}
    asked = [n for n in names if context.get_parameter_source(n) is not ParameterSource.DEFAULT]
    if asked:
        raise UsageError(f"{', '.join(flags[name] for name in asked)} belongs to {why}")
