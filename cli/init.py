"""`tofe-export init --model NAME --out FILE`: an untrained ToFe checkpoint, to try the export with."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from tofe_export.cli import console, host, model_options, options, outputs

if TYPE_CHECKING:
    from tofe_export.budget import Cost


@click.command("init", short_help="Backbone weights to an untrained ToFe checkpoint.")
@click.option("--model", required=True, metavar="NAME", help="lvvit_s, lvvit_m, or a timm VisionTransformer.")
@click.option(
    "--backbone",
    type=options.PATH,
    metavar="FILE",
    help="Plain weights (safetensors or torch); without it they are drawn at random.",
)
@click.option("--out", type=options.PATH, required=True, metavar="FILE", help="The checkpoint to write.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@model_options.structure
@model_options.architecture
@model_options.preparation
@click.option(
    "--classes",
    type=options.PATH,
    metavar="FILE",
    help="Class names, one per line, in the order of the outputs.",
)
@click.option(
    "--seed", type=options.Seed(), default=0, show_default=True, help="For everything that is drawn."
)
@options.quiet
def command(
    backbone: Path | None,
    out: Path,
    force: bool,
    classes: Path | None,
    seed: int,
    **model: Any,  # noqa: ANN401 - the rest of what `model_options.build` takes
) -> None:
    """Put fresh ToFe modules into a backbone. The result is marked as untrained."""
    outputs.check(out, force=force)
    host.require_export()
    checkpoint = model_options.build(
        backbone=backbone, classes=_read_classes(classes), seed=seed, made_by="tofe-export init", **model
    )
    checkpoint.save(out)
    console.warn(
        f"{out} is NOT TRAINED: its selectors choose at random"
        + ("" if backbone else ", and so do the backbone's weights")
    )
    budget = example_budget(checkpoint.model.cost())
    console.say(f"wrote {out}; export it with: tofe-export onnx --ckpt {quote(str(out))} --budget {budget}")


def example_budget(cost: Cost) -> str:
    """Half of the dense model's cost, or the middle of what can be reached where that is above it."""
    from tofe_export.budget import dense_macs, gmacs, macs, printed

    least, dense = gmacs(macs(cost, (1,) * cost.stages)), gmacs(dense_macs(cost))
    return printed(dense / 2 if dense / 2 > least else (least + dense) / 2)


def _read_classes(path: Path | None) -> tuple[str, ...] | None:
    from tofe_export.errors import InputError

    if path is None:
        return None
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a text file with one class name per line: {error}") from error
