"""PyTorch's answers on the reference images: what every exported graph is measured against.

Everything runs in float32 on the CPU, in small batches for static counts and one image at a time where each
image decides for itself. How much of an answer is rounding is measured too, by asking again in float64: a
head whose terms nearly cancel magnifies rounding, in PyTorch as in any runtime, and a fixed limit would call
that a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tofe_export.model.freezer import AdaptiveFreezer, Freezer, StageRecord, StaticFreezer
from tofe_export.model.tofe import ToFe

BATCH = 8

Floats = npt.NDArray[Any]
"""float32; float64 where rounding is measured."""


class Answers(NamedTuple):
    """What PyTorch says about n images."""

    output: Floats
    """(n, C), (n, D) or (n, N, D)."""
    scores: Floats | None
    """(n, S, N) in spatial order, NaN where a token was not scored; None for the dense model."""
    kept: npt.NDArray[np.bool_] | None
    """(n, S, N)."""


Step = Callable[[int], None]
"""Called with the number of images that were just done."""


def dense_answers(model: ToFe, images: Floats, output: str, step: Step) -> Answers:
    """Answer with the plain backbone; for `output="tokens"` its final-normed patch tokens."""
    backbone, parts = model.backbone, []
    for chunk in _chunks(images, BATCH):
        with torch.inference_mode():
            if output == "tokens":
                x = backbone.embed(chunk)
                for block in backbone.blocks:
                    x = block(x)
                parts.append(backbone.final_norm(x)[:, backbone.prefix :])
            else:
                parts.append(backbone.dense(chunk))
        step(len(chunk))
    return Answers(torch.cat(parts).numpy(), None, None)


def starts(model: ToFe, images: Floats) -> list[torch.Tensor]:
    """What all budgets share: the tokens of each batch before the first selection."""
    with torch.inference_mode():
        return [model.begin(chunk) for chunk in _chunks(images, BATCH)]


def static_answers(
    model: ToFe,
    images: Floats,
    keep: Sequence[int],
    output: str,
    step: Step,
    begun: Sequence[torch.Tensor] | None = None,
) -> Answers:
    """Answer with K_1 .. K_S tokens per stage; `begun` is what `starts` gave for these images."""
    return _answers(model, images, StaticFreezer(keep), BATCH, output, step, begun)


def adaptive_answers(
    model: ToFe, images: Floats, thresholds: Sequence[float], output: str, step: Step
) -> Answers:
    """Answer with a threshold per stage, each image for itself."""
    return _answers(model, images, AdaptiveFreezer(thresholds), 1, output, step)


def rounding(answers: Answers, exact: Answers) -> float:
    """Largest error of float32 `answers`, as a fraction of an image's range, against `exact` in float64.

    Images whose kept sets differ between the two are left out: there a tie was broken, and nothing rounded.
    """
    n = len(exact.output)
    ours, theirs = answers.output[:n].reshape(n, -1).astype(np.float64), exact.output.reshape(n, -1)
    errors = np.abs(ours - theirs).max(axis=1) / np.maximum(np.ptp(theirs, axis=1), np.finfo(np.float32).tiny)
    if answers.kept is not None and exact.kept is not None:
        errors = errors[(answers.kept[:n] == exact.kept).all(axis=(1, 2))]
    return float(errors.max(initial=0.0))


def thresholds_on(model: ToFe, images: Floats, keep: Sequence[int], step: Step) -> tuple[float, ...]:
    """Thresholds with which the images keep K_1 .. K_S tokens on average.

    Stages are settled one after the other, each behind the thresholds already found: the cut lies between the
    n * K_s best scores of all images and the rest (decision 19 of token_reduction 3.2).
    """
    found: list[float] = []
    for stage, count in enumerate(keep):
        freezer = AdaptiveFreezer([*found, *[float("inf")] * (len(keep) - len(found))])
        scores = _answers(model, images, freezer, 1, "head", step).scores
        assert scores is not None
        here = np.sort(scores[:, stage][~np.isnan(scores[:, stage])])[::-1]
        last = min(len(here), count * len(images))
        below = here[last] if last < len(here) else here[-1] - 1
        found.append(float(np.float32((here[last - 1] + below) / 2)))
    return tuple(found)


def _answers(
    model: ToFe,
    images: Floats,
    freezer: Freezer,
    batch: int,
    output: str,
    step: Step,
    begun: Sequence[torch.Tensor] | None = None,
) -> Answers:
    outputs, scores, kept = [], [], []
    chunks = _chunks(images, batch)
    known: Sequence[torch.Tensor | None] = [None] * len(chunks) if begun is None else begun
    for chunk, start in zip(chunks, known, strict=True):
        records: list[StageRecord] = []
        with torch.inference_mode():
            outputs.append(model(chunk, freezer, output, records, start))
        spatial = [record.spatial(model.backbone.tokens) for record in records]
        scores.append(torch.stack([s for s, _ in spatial], dim=1))
        kept.append(torch.stack([k for _, k in spatial], dim=1))
        step(len(chunk))
    return Answers(torch.cat(outputs).numpy(), torch.cat(scores).numpy(), torch.cat(kept).numpy())


def _chunks(images: Floats, size: int) -> list[torch.Tensor]:
    return list(torch.from_numpy(images).split(size))
