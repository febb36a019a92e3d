"""`tofe-export train --model NAME --backbone FILE --data DIR --budget 2.0 --out FILE`: teach a ViT to freeze.

The same command serves a CPU, one GPU and, under `accelerate launch`, many: only the main process talks and
writes. Beside FILE lie FILE.state while the training is not done (what `--resume` goes on from) and
FILE.jsonl, the log. FILE itself is written once, at the end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofe_export.cli import console, host, model_options, options, outputs, recipe_options
from tofe_export.cli.train_report import Narrator, summary
from tofe_export.errors import INTERRUPTED, MissingExtra, UsageError

if TYPE_CHECKING:
    from types import FrameType

    from accelerate import Accelerator

    from tofe_export.training.log import Writer
    from tofe_export.training.recipe import Recipe
    from tofe_export.training.report import StepReport
    from tofe_export.training.train import Trained

_FILE = options.PATH
_MOST_WORKERS = 8


@click.command("train", short_help="Backbone weights and images to a trained ToFe checkpoint.")
@click.option("--model", required=True, metavar="NAME", help="lvvit_s, lvvit_m, or a timm VisionTransformer.")
@click.option(
    "--backbone",
    type=_FILE,
    required=True,
    metavar="FILE",
    help="Plain weights (safetensors or torch), trained on these classes.",
)
@click.option(
    "--data",
    required=True,
    metavar="DIR",
    help="A folder with train/ and val/, or with one sub-folder per class; tar files, hfds/NAME, torch/NAME.",
)
@click.option("--out", type=_FILE, required=True, metavar="FILE", help="The checkpoint to write.")
@recipe_options.recipe
@model_options.structure
@model_options.architecture
@model_options.preparation
@click.option("--num-images", type=click.IntRange(min=1), metavar="N", help="Train on a fixed sample.")
@click.option("--force", is_flag=True, help="Replace OUT.")
@click.option("--resume", is_flag=True, help="Go on from OUT.state, with the same options.")
@click.option(
    "--save-every",
    type=options.FiniteRange(0),
    default=600,
    show_default=True,
    help="Seconds between states.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    help=f"Reading processes per training process.  [default: the cores, at most {_MOST_WORKERS}]",
)
@click.option(
    "--log", type=_FILE, metavar="FILE", help="JSON lines, one per few steps.  [default: OUT.jsonl]"
)
@click.option("--tensorboard", type=_FILE, metavar="DIR", help="Write the log for TensorBoard too.")
@click.option("--cpu", is_flag=True, help="Stay on the CPU even where there is a GPU.")
@options.json_target
@options.quiet
def command(
    out: Path,
    recipe: Recipe,
    json_target: str | None,
    cpu: bool,
    force: bool,
    **rest: Any,  # noqa: ANN401 - below
) -> None:
    """Train selectors, approximators and backbone so that an image costs a budget (GMACs) on average.

    The defaults are the paper's recipe for ImageNet on several GPUs; docs/training.md says what to change for
    less. Ctrl-C ends the step, saves the state and says how to go on.
    """
    with one_voice():
        require_train()
        check_out(out, rest["resume"], force)
        from tofe_export.training.session import create_accelerator, leave

        accelerator = create_accelerator(recipe, cpu=cpu)
        with stopping() as asked:
            trained = train(out, recipe, accelerator, asked, **rest)
    is_main = accelerator.is_main_process
    if trained is None:
        leave(accelerator)
        if is_main:
            console.warn(f"interrupted; the same command with --resume goes on from {state_of(out)}")
        click.get_current_context().exit(INTERRUPTED)
    if is_main:
        trained.checkpoint.save(out)
        state_of(out).unlink(missing_ok=True)
    leave(accelerator)
    if is_main:
        console.say(summary(trained, out))
        console.emit(trained.checkpoint.history, json_target)


def train(
    out: Path,
    recipe: Recipe,
    accelerator: Accelerator,
    asked: Callable[[], bool],
    *,
    data: str,
    num_images: int | None,
    resume: bool,
    save_every: float,
    workers: int | None,
    log: Path | None,
    tensorboard: Path | None,
    **model: Any,  # noqa: ANN401 - what `model_options.build` takes
) -> Trained | None:
    """Put model and data together and run the training; None if it was interrupted."""
    from tofe_export.training.data import open_data
    from tofe_export.training.train import Run
    from tofe_export.training.train import train as run_training

    checkpoint = model_options.build(
        seed=recipe.seed, conditioned=len(recipe.budgets) > 1, made_by="tofe-export train", **model
    )
    tofe = checkpoint.model
    opened = open_data(
        data, checkpoint.preprocessing, recipe, (tofe.stages, tofe.backbone.tokens), num_images
    )
    logs = (
        writers(log or out.with_name(f"{out.name}.jsonl"), tensorboard, resume)
        if accelerator.is_main_process
        else []
    )
    with Narrator(recipe, speaks=accelerator.is_main_process) as narrator, ExitStack() as stack:
        for writer in logs:
            stack.callback(writer.close)

        def told(report: StepReport) -> None:
            narrator.step(report)
            for writer in logs:
                writer(report)

        return run_training(
            checkpoint,
            opened,
            recipe,
            Run(
                accelerator=accelerator,
                workers=default_workers(accelerator.num_processes) if workers is None else workers,
                state_path=state_of(out),
                save_every_s=save_every,
                resume=resume,
                description=identity(model),
                say=narrator.say,
                warn=narrator.warn,
                on_step=told,
                should_stop=asked,
            ),
        )


def writers(log: Path, tensorboard: Path | None, resume: bool) -> list[Writer]:
    """Where every step's numbers go. Raises MissingExtra without TensorBoard."""
    from tofe_export.training.log import JsonLog, TensorBoardLog

    written: list[Writer] = [JsonLog(log, resume=resume)]
    return written if tensorboard is None else [*written, TensorBoardLog(tensorboard)]


def identity(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a resumed run must share of what `model_options.build` takes: the backbone by its content."""
    from tofe_export.files import sha256_file

    plain = {key: value for key, value in model.items() if key != "backbone"}
    return plain | {"backbone": sha256_file(model["backbone"])}


def require_train() -> None:
    """Raise MissingExtra unless everything of the extra `train` is installed."""
    from importlib.util import find_spec

    host.require_export()
    if find_spec("accelerate") is None:
        raise MissingExtra("accelerate", "train")


def check_out(out: Path, resume: bool, force: bool) -> None:
    """Raise WriteError where OUT cannot be written, UsageError where it or a state would be lost."""
    outputs.check(out, force=force or resume)
    if state_of(out).exists() and not resume:
        raise UsageError(
            f"{state_of(out)} holds a training that was interrupted: go on with --resume, or remove it to "
            "start anew"
        )


def state_of(out: Path) -> Path:
    """Where the state of an unfinished training lies."""
    return out.with_name(f"{out.name}.state")


def default_workers(processes: int) -> int:
    """The cores of this process's share of the machine, at most 8."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
    return min(_MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) // max(1, local)))


@contextmanager
def one_voice() -> Iterator[None]:
    """Let only the first of several processes report a wrong command line, which all of them meet."""
    try:
        yield
    except (UsageError, MissingExtra) as error:
        if os.environ.get("RANK", "0") == "0":
            raise
        click.get_current_context().exit(error.exit_code)


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """A question whether Ctrl-C was pressed (or the job asked to end); pressing it again ends at once."""
    asked = False
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.note("finishing this step and saving; Ctrl-C again ends at once")

    for number in before:
        signal.signal(number, ask)
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
