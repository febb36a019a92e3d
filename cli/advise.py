"""`tofe-export advise --model NAME`: what budgets would gain on this device, before any training.

Three ways, by where the latencies come from:

    --latency TABLE   read a table; needs neither torch nor a device, so it plans for another machine too
    --ladder DIR      write the graphs that another device measures (`bench DIR --table TABLE`)
    neither           do both here: make a ladder, measure it with ONNX Runtime, advise; --out keeps the table
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tofe_export.cli import advise_measure, advise_report, bench_setup, console, model_options, options
from tofe_export.errors import BudgetError, InputError, UsageError

if TYPE_CHECKING:
    from tofe_export.latency.advise import Advice, Row
    from tofe_export.latency.table import Entry, Table

_FILE = options.PATH
_HOST_ONLY = ("ladder", "out", "counts", "provider", "threads", "seconds", "num_classes", "model_args")
_MEASURING = ("provider", "threads", "seconds", "out", "budgets", "budgets_ms", "align", "json_target")
_STRUCTURE = ("selector", "approximator", "no_reuse", "locations")


def _on_sizes(
    context: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    sizes = (options.split_items(text, options.count_item, context, param) for text in texts)
    found = []
    for sides in sizes:
        if len(sides) > 2:
            raise click.BadParameter("expected H or H,W; repeat the option for several", context, param)
        found.append((int(str(sides[0])), int(str(sides[-1]))))
    return tuple(dict.fromkeys(found))


@click.command("advise", short_help="What a budget would gain here, before training.")
@click.option("--model", required=True, metavar="NAME", help="lvvit_s, lvvit_m, or a timm VisionTransformer.")
@click.option("--latency", type=_FILE, metavar="TABLE", help="Read this latency table; measure nothing.")
@click.option(
    "--ladder",
    type=_FILE,
    metavar="DIR",
    help="Only write the ladder's graphs, for `tofe-export bench DIR --table TABLE` on a device.",
)
@click.option(
    "--out",
    type=_FILE,
    metavar="TABLE",
    callback=bench_setup.on_target,
    help="Keep the table that was measured here.",
)
@options.budgets
@options.comma_list(
    "--budget-ms", "budgets_ms", options.number_item, "MS,...", "Budgets in milliseconds per run; may repeat."
)
@options.batches
@click.option(
    "--image-size",
    "image_sizes",
    multiple=True,
    metavar="H[,W]",
    callback=_on_sizes,
    help="Input size in pixels; may repeat. Default: the model's.",
)
@options.lowerings
@options.precisions
@options.align
@options.comma_list(
    "--tokens", "counts", options.count_item, "K,...", "Keep counts to measure. Default: twelve shares of N."
)
@model_options.structure
@model_options.arguments
@options.provider
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Of ONNX Runtime's CPU provider.")
@click.option("--seconds", type=options.FiniteRange(min=0), metavar="S", help="Per keep count. Default: 2.")
@options.json_target
@options.quiet
def command(
    model: str,
    latency: Path | None,
    ladder: Path | None,
    budgets: tuple[float, ...],
    budgets_ms: tuple[float, ...],
    align: int,
    json_target: str | None,
    **rest: Any,  # noqa: ANN401 - what `model_of`, `ladders` and `measured` take
) -> None:
    """Predict latencies of budgets (GMACs) from measured ones, and say whether token reduction pays.

    Without --latency a ladder is made of an untrained model: graphs that keep the same number of tokens in
    every stage, at a dozen numbers. They are measured here with ONNX Runtime (minutes), or with --ladder
    written for another device. Weights are drawn at random, which latency does not see.
    """
    context = click.get_current_context()
    source: Path | str
    if latency is not None:
        refuse(context, _HOST_ONLY, "--latency reads a table and measures nothing")
        table, source = read_table(latency, model), latency
    elif ladder is not None:
        refuse(context, _MEASURING, "--ladder only writes graphs")
        advise_measure.write_ladders(model, ladder, rest)
        return
    else:
        source = rest["out"] or "what was measured here"
        table = advise_measure.measure_here(model, rest, context)
    entries = entries_of(context, table, source, rest)
    advices = advise(entries, budgets, budgets_ms, align)
    console.say(advise_report.text(table, advices))
    console.emit(advise_report.to_json(table, advices, latency), json_target)


def refuse(context: click.Context, names: Sequence[str], reason: str) -> None:
    """Raise UsageError for an option that was given and would do nothing."""
    flags = {param.name: param.opts[0] for param in context.command.params}
    given = [flags[name] for name in names if given_in(context, name)]
    if given:
        raise UsageError(f"{reason}: leave out {', '.join(given)}")


def given_in(context: click.Context, name: str) -> bool:
    """Whether the command line has this option."""
    return context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)


def read_table(path: Path, model: str) -> Table:
    """A table about this model. Raises `InputError`."""
    from tofe_export.latency.table import Table

    table = Table.load(path)
    if _architecture(table.backbone) != _architecture(model):
        raise InputError(
            f"{path} is about {table.backbone}, and --model asks for {model}: latencies of one say nothing "
            f"about the other. Measure it: tofe-export advise --model {model} --out TABLE"
        )
    return table


def _architecture(name: str) -> str:
    """timm's name without the tag of its weights."""
    return name.partition(".")[0]


def entries_of(
    context: click.Context, table: Table, source: Path | str, wanted: Mapping[str, Any]
) -> list[Entry]:
    """The entries that the options name. Raises `InputError` for what the table does not hold."""
    from tofe_export.latency.table import find_entries

    entries = find_entries(
        table.entries,
        source,
        image_sizes=wanted["image_sizes"],
        lowerings=wanted["lowerings"],
        precisions=wanted["precisions"],
        batches=wanted["batches"],
    )
    for name in (name for name in _STRUCTURE if given_in(context, name)):
        field, value = ("reuse", not wanted[name]) if name == "no_reuse" else (name, wanted[name])
        for entry in entries:
            if (found := getattr(entry.cost, field)) != value:
                raise InputError(
                    f"{source} was measured with {field} {found}, and {value} was asked for: measure that: "
                    "tofe-export advise --model NAME --out TABLE"
                )
    return entries


def advise(
    entries: Sequence[Entry], budgets: Sequence[float], budgets_ms: Sequence[float], align: int
) -> list[Advice]:
    """One piece of advice per entry. Raises `BudgetError` for what the only entry cannot reach.

    Of several entries (image sizes, say) hardly any reaches all budgets: there it is a warning.
    """
    from tofe_export.latency.advise import Advice, advise

    if len(entries) == 1 or not (budgets or budgets_ms):
        return [advise(entry, budgets, budgets_ms, align) for entry in entries]
    asked = [*(((budget,), ()) for budget in budgets), *(((), (ms,)) for ms in budgets_ms)]
    return [
        Advice(entry, tuple(row for gmacs, ms in asked for row in _reached(entry, gmacs, ms, align)))
        for entry in entries
    ]


def _reached(
    entry: Entry, budgets: Sequence[float], budgets_ms: Sequence[float], align: int
) -> tuple[Row, ...]:
    """Rows, or none and a warning where the entry cannot reach the budget."""
    from tofe_export.latency.advise import advise

    try:
        return advise(entry, budgets, budgets_ms, align).rows
    except BudgetError as error:
        console.warn(f"{entry.name}: {error}")
        return ()
