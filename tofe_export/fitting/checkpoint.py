"""Fit a checkpoint: the model for one budget, its row in the table, and what there is to say about it."""

from __future__ import annotations

from dataclasses import replace

from tofe_export.calibration.report import entry_for, with_row
from tofe_export.calibration.stream import ImageStream
from tofe_export.calibration.tensors import Tensors
from tofe_export.calibration.thresholds import settle_thresholds
from tofe_export.fitting.fit import Fitted, Options, Say, fit
from tofe_export.fitting.pictures import parts
from tofe_export.model.checkpoint import Checkpoint


def fit_checkpoint(
    checkpoint: Checkpoint, stream: ImageStream, budget_gmacs: float, options: Options, say: Say
) -> tuple[Checkpoint, Fitted]:
    """A usable checkpoint of a fresh one, from the pictures of a stream that were all looked at.

    Its table has one row, of source "fit", with thresholds for the adaptive lowering; its history says from
    which pictures, how and when. Raises what `fit` raises, and ImageError for too few pictures.
    """
    model = checkpoint.model
    fitted_on, held_out = parts(stream, options.seed)
    found = fit(model, Tensors(fitted_on, model), Tensors(held_out, model), budget_gmacs, options, say)
    thresholds = settle_thresholds(model, Tensors(held_out, model), found.keep, budget_gmacs, say)
    facts = stream.facts()
    row = found.row(thresholds.values)
    history = {**checkpoint.history, "fit": found.to_json()}
    usable = replace(checkpoint, trained=True, history=history)
    method = {"fit": {"held_out": held_out.count, "selectors": found.way.name}}
    return with_row(usable, row, entry_for(row, facts, method)), found
