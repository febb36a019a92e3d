"""The options of `train` that say how to train: one per field of `Recipe`, whose value is the default shown.

A flag is its field's name with dashes; only `--budget` stands for `budgets`. The command receives all of them
as one argument, `recipe`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

import click

from tofe_export.cli import options
from tofe_export.training.recipe import CHOICES, Recipe

Command = TypeVar("Command", bound="Callable[..., Any]")

HELP = {
    "budgets": "Budgets in GMACs; several train one model that serves them all.",
    "epochs": "Passes over the training images.",
    "batch_size": "Images per step, over all processes and micro-batches.",
    "accumulate": "Micro-batches per step: a smaller memory, the same result.",
    "seed": "For everything that is drawn.",
    "precision": "Arithmetic; bf16 is automatic mixed precision.",
    "lr": "Initial learning rate of selectors and approximators.",
    "min_lr": "Last learning rate of the cosine.",
    "backbone_lr_scale": "The backbone's learning rate as a multiple of theirs.",
    "fixed_epochs": "Epochs during which the backbone's learning rate is 0.",
    "warmup_epochs": "Epochs of linear warm-up.",
    "weight_decay": "AdamW's; none on norms, biases, tokens and positions.",
    "clip_grad": "Largest norm of the gradient; 0 does not clip.",
    "ema": "Decay of the averaged weights, which are the ones saved; 0 saves the last ones.",
    "lambda_cls": "Weight of the classification loss.",
    "lambda_apr": "Weight of the approximation loss (Eq. 10); 0 leaves it out.",
    "lambda_budget": "Weight of the budget loss.  [default: 100 for ratio, 5 for gmacs]",
    "budget_unit": "Unit of the budget's error: share of the dense model, or the paper's GFLOPs.",
    "budget_mean": "Square of the batch's mean error (Eq. 13), or mean of the images' squares (Eq. 14).",
    "budget_control": "The loss alone, or a multiplier that removes the bias it leaves.",
    "multiplier_rate": "Speed of the multiplier.",
    "distill": "Weight of distilling the original model's logits; 0.5 in related work.",
    "tau": "Temperature of the Gumbel-softmax.",
    "keep_bias": "Initial log-odds of keeping a token; above 0 training starts denser.",
    "ratios": "Fixed keep ratios per stage instead of learning them for a budget.",
    "augment": "Augmentation of the training images.",
    "mixup": "Alpha of mixup; 0 for none.",
    "cutmix": "Alpha of cutmix; 0 for none.",
    "smoothing": "Label smoothing.",
    "erase": "Probability of erasing a rectangle.",
    "holdout": "Share of images held out where the data has no validation split.",
    "max_corrupt": "Share of unreadable images above which training stops.",
}
"""In the order shown."""

_BUDGETS = options.comma_list("--budget", "budgets", options.budget_item, "GMACS,...", HELP["budgets"])


def recipe(command: Command) -> Command:
    """Add all options; hand them to the command as `recipe`, a Recipe. Raises UsageError for bad values."""

    @functools.wraps(command)
    def with_recipe(**arguments: Any) -> Any:  # noqa: ANN401 - click's
        chosen = {name: arguments.pop(name) for name in HELP}
        return command(recipe=Recipe(**chosen), **arguments)

    decorated: Any = with_recipe
    for name in reversed(HELP):
        decorated = _option(name)(decorated)
    return decorated  # type: ignore[no-any-return]  # the same command with more options


def _option(name: str) -> Callable[[Command], Command]:
    if name in ("budgets", "ratios"):
        return _BUDGETS if name == "budgets" else _ratios
    default = next(field.default for field in fields(Recipe) if field.name == name)
    whole = get_type_hints(Recipe)[name] is int
    number = options.Seed() if name == "seed" else int if whole else options.FiniteRange()
    choice = name in CHOICES
    return click.option(
        f"--{name.replace('_', '-')}",
        name,
        type=click.Choice(CHOICES[name]) if choice else number,
        default=default,
        show_default=default is not None,
        metavar=None if choice else "N" if whole else "X",
        help=HELP[name],
    )


def _ratios(command: Command) -> Command:
    """Equal ratios are meant: unlike other lists, doubles stay."""
    return click.option(
        "--ratios", metavar="R1,R2,...", default="", callback=_on_ratios, help=HELP["ratios"]
    )(command)


def _on_ratios(context: click.Context, param: click.Parameter, text: str) -> tuple[object, ...]:
    return options.split_items(text, options.number_item, context, param) if text else ()
