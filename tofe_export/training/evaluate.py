"""How good a model is and what it does with its tokens: accuracy, MACs, and which tokens it keeps.

The model runs as it will be exported: dense, with the same counts for every image (static), or each image for
itself, one at a time (adaptive). Nothing is masked here; frozen tokens are really left out.

A *reused* token is one that stage s keeps although stage s - 1 had frozen it (the paper's Table VII). MACs
come in the paper's account, which budgets use, and as executed by the lowering of that mode (`budget.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tofe_export.budget import Cost, dense_macs, gmacs, macs, macs_executed
from tofe_export.errors import InputError, UsageError
from tofe_export.model.freezer import AdaptiveFreezer, Freezer, StageRecord
from tofe_export.model.tofe import ToFe
from tofe_export.training.batch import Batch
from tofe_export.training.samples import Samples, collate

QUANTILES = (0, 5, 25, 50, 75, 95, 100)  # percent
BINS = 20

Floats = npt.NDArray[np.float64]


class Row(NamedTuple):
    """One image."""

    rank: int
    """How many classes scored above the right one; the number of classes where a logit is not finite."""
    kept: tuple[int, ...]
    """Patch tokens kept in stage 1 .. S; empty for the dense model."""
    reused: tuple[int, ...]
    """Those among them that the stage before had frozen, in stage 2 .. S."""


Gather = Callable[[list[Row]], list[Row]]
"""Rows of this process -> rows of all processes."""
Advance = Callable[[int], None]
"""Called with the number of images that were just done."""


@dataclass(frozen=True)
class Evaluation:
    """What a model did on n images."""

    mode: str
    """"dense", "static" or "adaptive"."""
    rows: tuple[Row, ...]
    gmacs: Floats
    """(n,) in the paper's account."""
    gmacs_executed: Floats
    """(n,)"""

    def accuracy(self, top: int) -> float:
        """Share of images whose class is among the `top` best, in 0..1."""
        return float(np.mean([row.rank < top for row in self.rows]))

    @property
    def kept(self) -> Floats:
        """(n, S) patch tokens kept per image; (n, 0) for the dense model."""
        return np.array([row.kept for row in self.rows], dtype=np.float64)

    @property
    def reused(self) -> Floats:
        """(n, S - 1) reused tokens per image in stage 2 .. S."""
        return np.array([row.reused for row in self.rows], dtype=np.float64)

    def spread(self) -> list[tuple[float, float]]:
        """The 5 % and 95 % quantiles of the patch tokens kept in each stage."""
        low, high = np.percentile(self.kept, (5, 95), axis=0)
        return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Means over the images, the reuse of Table VII, and in adaptive mode the distributions of Fig. 9."""
        data: dict[str, Any] = {
            "mode": self.mode,
            "images": len(self.rows),
            "top1": self.accuracy(1),
            "top5": self.accuracy(5),
            "gmacs": float(self.gmacs.mean()),
            "gmacs_executed": float(self.gmacs_executed.mean()),
            "kept": [float(mean) for mean in self.kept.mean(axis=0)],
            "reused": [float(mean) for mean in self.reused.mean(axis=0)],
        }
        if self.mode == "adaptive":
            data["kept_distribution"] = [distribution(column) for column in self.kept.T]
            data["gmacs_distribution"] = distribution(self.gmacs)
        return data


def evaluate(
    model: ToFe,
    batches: Iterable[Batch],
    freezer: Freezer | None,
    *,
    gather: Gather = list,
    advance: Advance = lambda count: None,
) -> Evaluation:
    """Judge a model on labelled images; `freezer` None runs the plain backbone.

    Batches are those of `in_batches`; images that could not be read (negative index) do not count. The model
    computes where its weights are. A conditioned model must have been given its budget.

    Raises:
        UsageError: the model has no classifier.
        InputError: no readable images.
    """
    if not model.backbone.num_classes:
        raise UsageError("accuracy needs a classifier, and this model has none (num_classes is 0)")
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            rows = gather([row for batch in batches for row in _rows(model, batch, freezer, advance)])
    finally:
        model.train(was_training)
    if not rows:
        raise InputError("expected labelled images to evaluate on, found none that can be read")
    account, executed = _prices(model.cost(), rows, _lowering(freezer))
    return Evaluation(_mode(freezer), tuple(rows), account, executed)


def in_batches(
    dataset: Samples, indices: Iterable[int], size: int, workers: int = 0, epoch: int = 0
) -> Iterable[Batch]:
    """These items of a data set, in this order, in batches of at most `size`, with the draws of `epoch`.

    The result may be gone through any number of times, and gives the same batches each time.
    """
    keys = [(epoch, index) for index in indices]
    return DataLoader(dataset, size, sampler=keys, num_workers=workers, collate_fn=collate)


def distribution(values: Floats) -> dict[str, Any]:
    """Mean, standard deviation, quantiles in percent, and a histogram of `values` (n,)."""
    counts, edges = np.histogram(values, bins=BINS)
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "quantiles": {str(q): float(np.percentile(values, q)) for q in QUANTILES},
        "histogram": {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]},
    }


def _rows(model: ToFe, batch: Batch, freezer: Freezer | None, advance: Advance) -> Iterator[Row]:
    device = next(model.parameters()).device
    readable = batch.indices >= 0
    images, labels = batch.images[readable], batch.targets[readable]
    size = 1 if isinstance(freezer, AdaptiveFreezer) else max(1, len(images))
    for some, right in zip(images.split(size), labels.split(size), strict=True):
        records: list[StageRecord] = []
        some = some.to(device)
        logits = model.backbone.dense(some) if freezer is None else model(some, freezer, record=records)
        ranks = _ranks(logits.float().cpu(), right)
        kept, reused = _tokens(records, len(some), model.backbone.tokens)
        yield from (Row(*row) for row in zip(ranks, kept, reused, strict=True))
    advance(len(labels))


def _ranks(logits: Tensor, labels: Tensor) -> list[int]:
    """Place of the right class in logits (B, C); equal logits count for the lower index, as argmax does."""
    own = logits.gather(1, labels[:, None])
    before = torch.arange(logits.shape[1]) < labels[:, None]
    ranks = ((logits > own) | ((logits == own) & before)).sum(dim=1)
    finite = logits.isfinite().all(dim=1)
    return [int(rank) for rank in torch.where(finite, ranks, logits.shape[1])]


def _tokens(
    records: Sequence[StageRecord], images: int, tokens: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Per image: tokens kept in each stage, and those of them that the stage before had frozen."""
    if not records:
        return [()] * images, [()] * images
    kept = torch.stack([record.spatial(tokens)[1] for record in records], dim=1)  # (B, S, N)
    reused = kept[:, 1:] & ~kept[:, :-1]
    counts = kept.sum(dim=2).tolist(), reused.sum(dim=2).tolist()
    return [tuple(row) for row in counts[0]], [tuple(row) for row in counts[1]]


def _prices(cost: Cost, rows: Sequence[Row], lowering: str) -> tuple[Floats, Floats]:
    """GMACs per image in the paper's account and as executed."""
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    for row in rows:
        if row.kept not in known:
            paper = macs(cost, row.kept) if row.kept else dense_macs(cost)
            known[row.kept] = gmacs(paper), gmacs(macs_executed(cost, row.kept, lowering))
    both = np.array([known[row.kept] for row in rows], dtype=np.float64)
    return both[:, 0], both[:, 1]


def _mode(freezer: Freezer | None) -> str:
    if freezer is None:
        return "dense"
    return "adaptive" if isinstance(freezer, AdaptiveFreezer) else "static"


def _lowering(freezer: Freezer | None) -> str:
    return {"static": "scatter"}.get(_mode(freezer), _mode(freezer))
