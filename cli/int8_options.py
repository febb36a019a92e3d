"""The options of INT8, the same wherever INT8 variants are made, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofe_export.calibration.defaults import METHODS, MIN_AGREEMENT
from tofe_export.cli import console
from tofe_export.cli.options import Command, FiniteRange

if TYPE_CHECKING:
    from tofe_export.calibration.int8 import Pictures, Settings
    from tofe_export.calibration.stream import ImageStream
    from tofe_export.preprocess import Preprocessing

_BATCH = 16


def int8_options(command: Command) -> Command:
    """Declare --int8-method, --min-agreement and --int8-stem; handed on under these names."""
    for option in (
        click.option(
            "--int8-stem", is_flag=True, help="Quantise convolutions, too (TensorRT pads their channels)."
        ),
        click.option(
            "--min-agreement",
            type=FiniteRange(0, 1),
            default=MIN_AGREEMENT,
            show_default=True,
            help="INT8: how often the best class must be float32's, on held-out pictures; what costs more "
            "stays in float.",
        ),
        click.option(
            "--int8-method",
            type=click.Choice(METHODS),
            default="max",
            show_default=True,
            help="INT8: how the ranges of activations end.",
        ),
    ):
        command = option(command)
    return command


def settings_of(given: dict[str, Any]) -> Settings:
    """The settings among a command's arguments, which are taken out of them."""
    from tofe_export.calibration.int8 import Settings

    return Settings(given.pop("int8_method"), given.pop("min_agreement"), given.pop("int8_stem"))


def calibration_pictures(
    folder: Path, count: int | None, pre: Preprocessing, *, frames: bool = False
) -> Pictures:
    """A sample of a folder's pictures, all looked at once. Raises ImageError."""
    from tofe_export.calibration.images import select
    from tofe_export.calibration.stream import ImageStream

    stream = ImageStream(select(folder, count), pre, _BATCH, frames=frames)
    with console.progress("looking at pictures", len(stream.selection.names)) as bar:
        stream.check(bar.advance)
    return pictures_of(stream)


def pictures_of(stream: ImageStream) -> Pictures:
    """A stream that was gone through once, for INT8. Raises InputError where it has one picture only."""
    from tofe_export.calibration.int8 import Pictures

    made = Pictures(stream, stream.facts().to_json())
    made.require_two()
    return made
