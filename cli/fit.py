"""`tofe-export fit --model NAME --backbone FILE --images DIR --budget 2.0 --out FILE`: ToFe without training.

For those who cannot train: no labels, minutes instead of epochs. What comes out is a checkpoint like any
other. How far it is from the dense model is measured on pictures that nothing was fitted on; how far from
training, docs/fit.md says.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from tofe_export.cli import calibrate_pictures, console, fit_report, host, model_options, options, outputs
from tofe_export.errors import UsageError

if TYPE_CHECKING:
    from tofe_export.fitting.fit import Fitted
    from tofe_export.fitting.locations import Choice
    from tofe_export.model.checkpoint import Checkpoint

_FILE = options.PATH


@click.command("fit", short_help="Backbone weights and unlabelled images to a ToFe checkpoint.")
@click.option("--model", required=True, metavar="NAME", help="lvvit_s, lvvit_m, or a timm VisionTransformer.")
@click.option(
    "--backbone", type=_FILE, required=True, metavar="FILE", help="Plain weights (safetensors or torch)."
)
@click.option("--images", type=_FILE, required=True, metavar="DIR", help="Pictures, any depth, no labels.")
@click.option(
    "--num-images",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use a sample of N pictures.  [default: 512, or all where there are fewer]",
)
@options.budgets
@click.option("--out", type=_FILE, required=True, metavar="FILE", help="The checkpoint to write.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option(
    "--steps",
    type=click.IntRange(min=0),
    default=600,
    show_default=True,
    help="Of tuning backbone and approximators on the dense model's answers, a batch each; 0 for none.",
)
@click.option(
    "--keep-backbone",
    is_flag=True,
    help="Leave the backbone's weights as they are, at some cost in fidelity.",
)
@click.option(
    "--no-search",
    is_flag=True,
    help="The paper's locations and proportions of keep counts, not measured ones.",
)
@options.align
@model_options.locations("the best of several, by measurement")
@model_options.modules
@model_options.architecture
@model_options.preparation
@click.option(
    "--seed", type=options.Seed(), default=0, show_default=True, help="Of the sample and all that is drawn."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Images at a time."
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1.  [default: cuda where there is one]")
@click.option(
    "--max-corrupt",
    type=options.FiniteRange(0, 1),
    default=0.01,
    show_default=True,
    help="Share of unreadable pictures above which nothing is fitted.",
)
@options.json_target
@options.quiet
def command(
    images: Path,
    num_images: int | None,
    budgets: tuple[float, ...],
    out: Path,
    force: bool,
    json_target: str | None,
    **rest: Any,  # noqa: ANN401 - below
) -> None:
    """Make a dense model keep fewer tokens, from pictures alone.

    Where tokens are selected, selectors, approximators and keep counts are fitted to the dense model's own
    features and answers, for one budget (GMACs). Then the backbone learns to answer alike from fewer tokens,
    unless --keep-backbone is given.
    """
    if len(budgets) != 1:
        found = "none" if not budgets else str(len(budgets))
        raise UsageError(f"fit makes a model for one budget: expected one --budget, found {found}")
    outputs.check(out, force=force)
    host.require_export()
    checkpoint, fitted, choice = fit(images, num_images, budgets[0], **rest)
    checkpoint.save(out)
    console.say(fit_report.text(fitted, choice))
    console.say(
        f"\nwrote {out}; export it with: tofe-export onnx --ckpt {quote(str(out))} --budget {budgets[0]:g}\n"
        "If you have labels and a GPU, compare with: tofe-export train"
    )
    console.emit({"out": str(out), **checkpoint.history}, json_target)


def fit(
    images: Path,
    num_images: int | None,
    budget: float,
    *,
    steps: int,
    keep_backbone: bool,
    no_search: bool,
    align: int,
    seed: int,
    batch_size: int,
    device: str | None,
    max_corrupt: float,
    locations: tuple[int, ...],
    **model: Any,  # noqa: ANN401 - what `model_options.build` takes
) -> tuple[Checkpoint, Fitted, Choice]:
    """Put model and pictures together, and fit."""
    from tofe_export.cli.eval import find_device
    from tofe_export.fitting.checkpoint import fit_checkpoint
    from tofe_export.fitting.fit import Options
    from tofe_export.fitting.locations import candidates, within_reach
    from tofe_export.fitting.modules import check_structure

    checkpoint = model_options.build(seed=seed, made_by="tofe-export fit", locations=locations, **model)
    check_structure(checkpoint.model)
    here = checkpoint.model.structure.locations
    fixed = bool(locations) or no_search
    places = [here] if fixed else candidates(len(checkpoint.model.backbone.blocks), here)
    places = within_reach(checkpoint.model, places, budget, align)  # before pictures are read
    checkpoint.model.to(find_device(device))
    pictures = calibrate_pictures.Given(images, num_images, seed, batch_size, max_corrupt)
    stream = pictures.open(checkpoint.preprocessing)
    chosen = Options(search=not no_search, steps=steps, backbone=not keep_backbone, align=align, seed=seed)
    with console.progress("fit:", None) as bar:
        return fit_checkpoint(checkpoint, stream, budget, chosen, bar.show, places)
