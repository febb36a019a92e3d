"""The options that commands share, written once: a flag means the same thing, with the same help, everywhere.

A comma list may repeat: `--budget 2.0,2.5 --budget 3` is the tuple (2.0, 2.5, 3.0), in the order given and
without doubles. Values are checked here as far as the text alone allows (a budget is a finite positive
number); what depends on a model or a bundle is checked by whoever knows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from tofe_export.cli import console

DEFAULT_BUNDLE = Path("tofe_bundle")
LOWERINGS = ("scatter", "concat", "adaptive", "dense")
PRECISIONS = ("fp32", "fp16", "bf16", "int8", "int8fp16", "fp8")
BACKENDS = ("onnxruntime", "tensorrt")
PROVIDERS = ("cpu", "cuda", "tensorrt")

Command = TypeVar("Command", bound="Callable[..., Any]")


class FiniteRange(click.FloatRange):
    """A range of numbers; `click.FloatRange` takes NaN for a member, and infinity where an end is open."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401 - click's
        """The number. Raises `click.BadParameter`."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value!r}", param, ctx)
        return number


class Seed(click.types.IntParamType):
    """An integer that every generator takes, also after a small multiple of it was formed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:  # noqa: ANN401 - click's
        """The number. Raises `click.BadParameter`."""
        number = int(super().convert(value, param, ctx))
        if not -(2**32) < number < 2**32:
            self.fail(f"expected an integer of at most 32 bits, got {value!r}", param, ctx)
        return number


def name_item(text: str) -> str:
    """A name: anything but nothing."""
    if not text:
        raise ValueError("an empty item; expected names separated by commas")
    return text


def number_item(text: str) -> float:
    """A finite number."""
    value = _number(text)
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {text!r}")
    return value


def budget_item(text: str) -> float:
    """A budget in GMACs: a finite number above 0."""
    value = _number(text)
    if not math.isfinite(value) or value <= 0:
        raise ValueError(f"expected a budget in GMACs above 0, got {text!r}")
    return value


def count_item(text: str) -> int:
    """A number of tokens or images: an integer of at least 1."""
    return _integer(text, least=1)


def index_item(text: str) -> int:
    """An index: an integer of at least 0."""
    return _integer(text, least=0)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a number, got {text!r}") from None


def _integer(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"expected an integer, got {text!r}") from None
    if value < least:
        raise ValueError(f"expected an integer of at least {least}, got {text!r}")
    return value


def batch_item(text: str) -> int | str:
    """A batch size: an integer of at least 1, or "dyn" ("dynamic" is understood too)."""
    return "dyn" if text in ("dyn", "dynamic") else count_item(text)


def choice_item(choices: Sequence[str]) -> Callable[[str], str]:
    """One of `choices`."""

    def item(text: str) -> str:
        if text not in choices:
            raise ValueError(f"expected one of {', '.join(choices)}, got {text!r}")
        return text

    return item


def comma_list(
    flag: str, parameter: str, item: Callable[[str], object], metavar: str, help: str
) -> Callable[[Command], Command]:
    """Declare a comma list that may repeat; the command receives a flat tuple without doubles.

    `item` makes a value of the text between two commas; a ValueError from it is a usage error.
    """

    def parse(context: click.Context, param: click.Parameter, texts: tuple[str, ...]) -> tuple[object, ...]:
        return tuple(dict.fromkeys(split_items(",".join(texts), item, context, param) if texts else ()))

    return click.option(flag, parameter, multiple=True, metavar=metavar, callback=parse, help=help)


def variant_filters(command: Command) -> Command:
    """The five options that pick variants of a bundle; a command hands them on as `**filters`."""
    for option in (batches, precisions, lowerings, budgets, names):  # the last one is shown first
        command = option(command)
    return command


def split_items(
    text: str, item: Callable[[str], object], context: click.Context, param: click.Parameter
) -> tuple[object, ...]:
    """Values of a comma list; raises `click.BadParameter` for an item that `item` refuses."""
    try:
        return tuple(item(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(str(error), context, param) from None


def _on_keep(context: click.Context, param: click.Parameter, text: str | None) -> tuple[object, ...] | None:
    return None if text is None else split_items(text, count_item, context, param)


def _on_json(context: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value == "-":
        console.set_json_on_stdout(context)
    elif value is not None and not Path(value).absolute().parent.is_dir():
        folder = Path(value).absolute().parent
        raise click.BadParameter(f"there is no folder {folder}; create it first", context, param)
    return value


def _on_quiet(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        console.set_quiet(context)


PATH = click.Path(path_type=Path, readable=False)
"""A file or folder. Whether it can be read is told by what reads it, with that error's exit code."""


bundle = click.argument("bundle", type=PATH, default=DEFAULT_BUNDLE, required=False)
ckpt = click.option("--ckpt", type=PATH, metavar="FILE", help="A ToFe checkpoint.")
required_ckpt = click.option("--ckpt", type=PATH, metavar="FILE", required=True, help="A ToFe checkpoint.")
out = click.option("--out", type=PATH, metavar="PATH", help="Where to write.")
quiet = click.option(
    "--quiet",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_on_quiet,
    help="No remarks and no progress: results, warnings and errors only.",
)
json_target = click.option(
    "--json",
    "json_target",
    metavar="FILE|-",
    is_eager=True,
    callback=_on_json,
    help="Write the result as JSON too; with - to stdout, and nothing else there.",
)
images = click.option("--images", type=PATH, metavar="DIR", help="A folder of pictures, with sub-folders.")
num_images = click.option(
    "--num-images", type=click.IntRange(min=1), metavar="N", help="Use a fixed random sample of N pictures."
)
names = comma_list("--variant", "names", name_item, "NAME,...", "Only variants of these names; may repeat.")
budgets = comma_list("--budget", "budgets", budget_item, "GMACS,...", "Budgets in GMACs; may repeat.")
lowerings = comma_list(
    "--lowering",
    "lowerings",
    choice_item(LOWERINGS),
    "NAME,...",
    f"{', '.join(LOWERINGS)}; may repeat.",
)
precisions = comma_list(
    "--precision",
    "precisions",
    choice_item(PRECISIONS),
    "NAME,...",
    f"{', '.join(PRECISIONS)}; may repeat.",
)
batches = comma_list("--batch", "batches", batch_item, "N|dyn,...", "Batch sizes, or dyn; may repeat.")
keep = click.option(
    "--keep",
    metavar="K1,K2,...",
    callback=_on_keep,
    help="Patch tokens to keep, one count per stage, instead of solving for a budget.",
)
align = click.option(
    "--align",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Round keep counts down to multiples.",
)
backend = click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    help="The runtime. Default: tensorrt where BUNDLE has engines for this device, else onnxruntime.",
)
provider = click.option(
    "--provider",
    type=click.Choice(PROVIDERS),
    help=f"Where ONNX Runtime computes. Default: {PROVIDERS[0]}.",
)
