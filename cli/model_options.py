"""The options that describe a model: its ToFe modules, its backbone's arguments, and how images are prepared.

Used by the commands that make a checkpoint from a backbone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tofe_export.cli import options
from tofe_export.graph.collection import no_collection

if TYPE_CHECKING:
    from tofe_export.model.checkpoint import Checkpoint

Command = TypeVar("Command", bound="Callable[..., Any]")


def structure(command: Command) -> Command:
    """The choices that the paper compares: selector, approximator, reuse, and where selections happen."""
    return locations("the paper's for this depth")(modules(command))


def locations(default: str) -> Callable[[Command], Command]:
    """Where selections happen; `default` says where unless told."""
    return click.option(
        "--locations",
        metavar="B1,B2,...",
        default="",
        callback=_on_locations,
        help=f"Blocks (from 0) before which selections happen.  [default: {default}]",
    )


def modules(command: Command) -> Command:
    """Selector, approximator, reuse."""
    for option in (
        click.option(
            "--no-reuse", is_flag=True, help="Frozen tokens are gone for good (the paper's ablation)."
        ),
        click.option(
            "--approximator",
            type=click.Choice(["bottleneck", "identity", "depthwise", "block"]),
            default="bottleneck",
            show_default=True,
            help="How frozen tokens are brought up to date.",
        ),
        click.option(
            "--selector",
            type=click.Choice(["mlp", "dynamicvit"]),
            default="mlp",
            show_default=True,
            help="How tokens are scored.",
        ),
    ):
        command = option(command)
    return command


def arguments(command: Command) -> Command:
    """Arguments of the backbone besides its input size."""
    for option in (
        click.option(
            "--model-arg",
            "model_args",
            multiple=True,
            metavar="KEY=VALUE",
            callback=_on_model_args,
            help="An argument for timm's model, VALUE in JSON (global_pool=avg, depth=8); may repeat.",
        ),
        click.option(
            "--num-classes", type=click.IntRange(min=0), metavar="C", help="Outputs of the head; 0 for none."
        ),
    ):
        command = option(command)
    return command


def architecture(command: Command) -> Command:
    """Arguments of the backbone itself."""
    option = click.option(
        "--image-size",
        metavar="H[,W]",
        callback=_on_size,
        help="Input size in pixels; positions are resampled.",
    )
    return option(arguments(command))


def preparation(command: Command) -> Command:
    """Overrides of the backbone's own preprocessing."""
    for option in (
        click.option("--std", metavar="R,G,B", callback=_on_triple, help="Standard deviations to divide by."),
        click.option(
            "--mean", metavar="R,G,B", callback=_on_triple, help="Means to subtract, in units of 1/255."
        ),
        click.option(
            "--interpolation",
            type=click.Choice(["bicubic", "bilinear", "nearest", "lanczos"]),
            help="For resizing.",
        ),
        click.option(
            "--crop-mode", type=click.Choice(["center", "squash"]), help="How to reach the input's shape."
        ),
        click.option(
            "--crop", type=options.FiniteRange(0, 1, min_open=True), help="Share of the image that is kept."
        ),
    ):
        command = option(command)
    return command


def build(
    *,
    model: str,
    backbone: Path | None,
    selector: str,
    approximator: str,
    no_reuse: bool,
    locations: tuple[int, ...],
    image_size: tuple[int, int] | None,
    num_classes: int | None,
    model_args: Mapping[str, Any],
    seed: int,
    made_by: str,
    classes: tuple[str, ...] | None = None,
    conditioned: bool = False,
    **preparation: Any,  # noqa: ANN401 - the options of `preparation`
) -> Checkpoint:
    """Make a checkpoint of what the options above say, its modules drawn for `seed`."""
    with no_collection():
        import torch

        from tofe_export.model.build import build_checkpoint

    torch.manual_seed(seed)
    return build_checkpoint(
        model,
        backbone,
        selector=selector,
        approximator=approximator,
        reuse=not no_reuse,
        locations=locations,
        image_size=image_size,
        num_classes=num_classes,
        arguments=model_args,
        classes=classes,
        preparation=preparation,
        seed=seed,
        conditioned=conditioned,
        made_by=made_by,
    )


def _on_locations(context: click.Context, param: click.Parameter, text: str) -> tuple[object, ...]:
    return options.split_items(text, options.index_item, context, param) if text else ()


def _on_size(
    context: click.Context, param: click.Parameter, text: str | None
) -> tuple[object, object] | None:
    if text is None:
        return None
    sides = options.split_items(text, options.count_item, context, param)
    if len(sides) > 2:
        raise click.BadParameter(f"expected H or H,W, got {text!r}", context, param)
    return sides[0], sides[-1]


def _on_triple(context: click.Context, param: click.Parameter, text: str | None) -> tuple[object, ...] | None:
    if text is None:
        return None
    values = options.split_items(text, options.number_item, context, param)
    if len(values) != 3 or (param.name == "std" and not all(isinstance(v, float) and v > 0 for v in values)):
        raise click.BadParameter(f"expected three numbers (positive for std), got {text!r}", context, param)
    return values


def _on_model_args(
    context: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> dict[str, object]:
    arguments: dict[str, object] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not key or not separator:
            raise click.BadParameter(f"expected KEY=VALUE, got {text!r}", context, param)
        try:
            arguments[key] = json.loads(value)
        except json.JSONDecodeError:
            arguments[key] = value
    return arguments
