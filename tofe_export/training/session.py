"""The processes of a training: how accelerate is set up, and how processes agree.

One command serves a CPU, one GPU, several GPUs and several nodes: `accelerate launch` starts the processes,
accelerate wraps model, optimiser and loader. What it must not do here is draw random numbers or move
micro-batches between processes: every draw is keyed by the sample or the step.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from tofe_export.errors import MissingExtra, TofeError, UsageError
from tofe_export.training.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

T = TypeVar("T")


def create_accelerator(recipe: Recipe, *, cpu: bool = False) -> Accelerator:
    """Set accelerate up for `fit`: each global micro-batch is split over the processes.

    Args:
        recipe: its precision and its number of micro-batches count.
        cpu: stay on the CPU even where there is a GPU.

    Raises:
        MissingExtra: accelerate is not installed.
        UsageError: the device cannot compute in the recipe's precision.
    """
    try:
        from accelerate import Accelerator
        from accelerate.utils import (
            DataLoaderConfiguration,
            DistributedDataParallelKwargs,
            GradientAccumulationPlugin,
        )
    except ImportError as error:
        raise MissingExtra("accelerate", "train") from error
    plugin = GradientAccumulationPlugin(num_steps=recipe.accumulate, sync_with_dataloader=False)
    # Not every backbone uses all its parameters, and selectors have no gradient where something else chooses.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    try:
        return Accelerator(
            cpu=cpu,
            mixed_precision="no" if recipe.precision == "fp32" else recipe.precision,
            gradient_accumulation_plugin=plugin,
            dataloader_config=DataLoaderConfiguration(split_batches=True),
            rng_types=[],
            kwargs_handlers=[parallel],
        )
    except ValueError as error:
        raise UsageError(f"precision {recipe.precision}: {error}; use --precision fp32") from error


def leave(accelerator: Accelerator) -> None:
    """Wait for the other processes, then end the connection; for the end of a process's work.

    A process that ends while connected may abort, and the launcher then stops those that are still writing.
    Trainings that failed are held by their errors' frames, and hold the connection: they are collected first.
    """
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        gc.collect()
        accelerator.end_training()


def mean_over(accelerator: Accelerator) -> Callable[[Tensor], Tensor]:
    """The mean of a tensor over all processes, without gradient; the tensor itself where there is one."""
    if accelerator.num_processes == 1:
        return lambda tensor: tensor
    return cast("Callable[[Tensor], Tensor]", partial(accelerator.reduce, reduction="mean"))


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether `flag` holds in any process; all processes call this together and get the same answer."""
    if accelerator.num_processes == 1:
        return flag
    raised = torch.tensor(float(flag), device=accelerator.device)
    return bool(accelerator.reduce(raised, reduction="sum").item() > 0)


def together(accelerator: Accelerator, act: Callable[[], T]) -> T:
    """Run `act`, and fail in every process if it failed in one: the others would wait for it for ever.

    Raises:
        TofeError: as `act` raised it here, or that another process reports it.
    """
    error: TofeError | None = None
    try:
        result = act()
    except TofeError as caught:
        error = caught
    if any_process(accelerator, error is not None):
        raise error or TofeError("another process stopped with an error: its message says why")
    return result


def from_main(accelerator: Accelerator, act: Callable[[], T]) -> T:
    """Run `act` in the main process and give its result, or its TofeError, to all: nodes share no disk."""
    if accelerator.num_processes == 1:
        return act()
    from accelerate.utils import broadcast_object_list

    outcome: list[T | TofeError | None] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [act()]
        except TofeError as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], TofeError):
        raise outcome[0]
    return cast("T", outcome[0])
