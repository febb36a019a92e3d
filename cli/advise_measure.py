"""What `advise` does where no table is read: ladders for a device, or ladder, measuring and table here.

`options` are the command's, by parameter name: what a model is built of, what a ladder holds, and how ONNX
Runtime measures it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofe_export.cli import bench_table, console, host, model_options
from tofe_export.errors import UsageError

if TYPE_CHECKING:
    from tofe_export.latency.measure import Length
    from tofe_export.latency.table import Table


def write_ladders(model: str, target: Path, options: Mapping[str, Any]) -> None:
    """One ladder per image size: at `target`, or below it where there are several."""
    from tofe_export.files import writing

    sizes: tuple[tuple[int, int] | None, ...] = options["image_sizes"] or (None,)
    made = []
    for size in sizes:
        place = target if len(sizes) == 1 or size is None else target / f"{size[0]}x{size[1]}"
        with writing(place.parent):
            place.parent.mkdir(parents=True, exist_ok=True)
        make_ladder(model, size, place, options)
        made.append(place)
    console.say("\n".join(f"wrote {place}" for place in made))
    console.say("measure it on the device, then read the table anywhere:")
    for place in made:
        console.say(f"  tofe-export bench {place} --table latency.json")
    console.say(f"  tofe-export advise --model {model} --latency latency.json")


def measure_here(model: str, options: Mapping[str, Any], context: click.Context) -> Table:
    """Make ladders, measure them with ONNX Runtime on this machine, and keep the table where --out says."""
    out: Path | None = options["out"]
    length = bench_table.length_of(context, options["seconds"], None, 0)
    before = bench_table.earlier(out) if out else None
    table: Table | None = None
    for size in options["image_sizes"] or (None,):
        with scratch() as folder:
            make_ladder(model, size, folder, options)
            found = measure_ladder(folder, options, length, before)
        table = found if table is None else table.joined(found, "this run")
        if out:  # after every size: the next one takes minutes, and may fail
            (before[0].joined(table, out) if before else table).save(out)
    assert table is not None  # there is at least one size
    console.note(f"wrote {out}" if out else "the table is not kept: --out TABLE keeps it for --latency")
    return table


def measure_ladder(
    folder: Path, options: Mapping[str, Any], length: Length, before: tuple[Table, Path] | None
) -> Table:
    """A table of one ladder. Raises UsageError at once where `before` could not be added to."""
    from tofe_export.bundle import Bundle

    bundle = Bundle.open(folder)
    filters = {"names": (), "precisions": options["precisions"]}
    filters |= dict.fromkeys(("budgets", "lowerings", "batches"), ())
    way = bench_table.Way("onnxruntime", options["provider"], options["threads"])
    rungs, choice = bench_table.rungs_and_backend(bundle, filters, way)
    how = bench_table.how_of(choice, way)
    return bench_table.measure(bundle, rungs, choice, how, length, before)


def make_ladder(model: str, size: tuple[int, int] | None, target: Path, options: Mapping[str, Any]) -> None:
    """Build the untrained model and write its ladder. Raises `UsageError`, `UnsupportedModel`, ..."""
    host.require_export()
    from tofe_export.latency.ladder import make_ladder
    from tofe_export.latency.ladder_plan import Ladder

    if "dense" in options["lowerings"] or "adaptive" in options["lowerings"]:
        raise UsageError("--lowering: expected scatter or concat: only static keep counts have one latency")
    if "dyn" in options["batches"]:
        raise UsageError("--batch: expected numbers: a latency belongs to one batch")
    checkpoint = model_options.build(
        model=model,
        backbone=None,
        selector=options["selector"],
        approximator=options["approximator"],
        no_reuse=options["no_reuse"],
        locations=options["locations"],
        image_size=size,
        num_classes=options["num_classes"],
        model_args=options["model_args"],
        seed=0,
        made_by="tofe-export advise",
    )
    ladder = Ladder(
        counts=options["counts"],
        batches=options["batches"] or (1,),
        lowerings=options["lowerings"] or ("scatter",),
        precisions=options["precisions"] or ("fp32",),
    )
    with console.progress("ladder:") as bar:
        make_ladder(checkpoint, ladder, target, bar.show)


@contextmanager
def scratch() -> Iterator[Path]:
    """A place for a ladder that nobody keeps."""
    with tempfile.TemporaryDirectory(prefix="tofe-ladder-") as folder:
        yield Path(folder) / "ladder"
