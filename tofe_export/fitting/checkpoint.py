"""Fit a checkpoint: the model for one budget, its row in the table, and what there is to say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tofe_export.calibration.report import entry_for, with_row
from tofe_export.calibration.stream import ImageStream
from tofe_export.calibration.tensors import Tensors
from tofe_export.calibration.thresholds import settle_thresholds
from tofe_export.fitting.fit import Fitted, Options, Say, fit
from tofe_export.fitting.locations import Choice, Locations, choose, moved
from tofe_export.fitting.pictures import parts
from tofe_export.model.checkpoint import Checkpoint


def fit_checkpoint(
    checkpoint: Checkpoint,
    stream: ImageStream,
    budget_gmacs: float,
    options: Options,
    say: Say,
    places: Sequence[Locations] = (),
) -> tuple[Checkpoint, Fitted, Choice]:
    """A usable checkpoint of a fresh one, from the pictures of a stream that were all looked at.

    Selections happen at the best of `places`, where there are any to choose from, else where they are.
    Its table has one row, of source "fit", with thresholds for the adaptive lowering; its history says from
    which pictures, how and when. Raises what `fit` raises, and ImageError for too few pictures.
    """
    model = checkpoint.model
    fitted_on, held_out = parts(stream, options.seed)
    images, judging = Tensors(fitted_on, model), Tensors(held_out, model)
    here = model.structure.locations
    choice = choose(model, places or [here], images, budget_gmacs, options.align, options.seed, say)
    if choice.locations != here:
        model = moved(model, choice.locations, options.seed)
    found = fit(model, images, judging, budget_gmacs, options, say)
    thresholds = settle_thresholds(model, judging, found.keep, budget_gmacs, say)
    facts = stream.facts()
    row = found.row(thresholds.values)
    history = {**checkpoint.history, "fit": {"locations": choice.to_json(), **found.to_json()}}
    usable = replace(checkpoint, model=model, trained=True, history=history)
    method = {"fit": {"held_out": held_out.count, "selectors": found.way.name}}
    return with_row(usable, row, entry_for(row, facts, method)), found, choice
