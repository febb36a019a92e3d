"""How far the answer with frozen tokens lies from a reference answer, image by image, without labels.

For classifiers the Kullback-Leibler divergence of the class probabilities, in nats: 0 where they are equal,
and large where the reference was sure of a class that is gone. It sees what top-1 agreement does not see yet,
and needs far fewer images for the same certainty. For models without a classifier, the squared distance of
the features, relative to the reference's own square.

The reference answers are needed again for every group of candidates and may be too large to keep in memory
(50,000 images of 1,000 classes), so they wait in a temporary file. Shapes: B images in a batch, C classes or
D features, P candidates.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tofe_export.calibration.targets import Keep
from tofe_export.errors import InputError
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.tofe import ToFe


class Loss(NamedTuple):
    """What one set of keep counts changes, mean over the images."""

    divergence: float
    agreement: float
    """Share of images with the reference's top class; for features NaN."""


class Paired(NamedTuple):
    """Two sets of keep counts on the same images."""

    losses: tuple[Loss, Loss]
    difference: float
    """Mean divergence of the second minus that of the first."""
    error: float
    """Standard error of the difference."""
    images: int

    @property
    def second_is_better(self) -> bool:
        """Whether the second diverges less; where nothing was searched on these images, the likelier bet."""
        return self.difference < 0


def divergence(ours: Tensor, reference: Tensor, classifier: bool) -> Tensor:
    """Per image (B,): KL(reference || ours) of logits (B, C), or the relative squared distance (B, D)."""
    if not classifier:
        return (ours - reference).square().sum(dim=1) / reference.square().sum(dim=1).clamp(min=1e-12)
    log_ours, log_theirs = ours.log_softmax(dim=1), reference.log_softmax(dim=1)
    return (log_theirs.exp() * (log_theirs - log_ours)).sum(dim=1).clamp(min=0)


class Judge:
    """Measures sets of keep counts on the same images; a context manager, for its temporary file.

    `images` are batches (B, 3, H, W) on the model's device, the same in every pass; `refer` answers them.
    Raises InputError where an answer of the reference is not finite or there are no images.
    """

    def __init__(self, model: ToFe, images: Iterable[Tensor], refer: Callable[[Tensor], Tensor]) -> None:
        self.model, self.images, self.refer = model, images, refer
        self.classifier = model.backbone.num_classes > 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._known = False

    def __enter__(self) -> Judge:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def judge(self, plans: Sequence[Keep]) -> list[Loss]:
        """What each set of keep counts changes; one pass over the images."""
        sums, images = np.zeros((2, len(plans))), 0
        for differs, agrees in self._passes(plans):
            sums += np.stack([differs.sum(axis=1), agrees.sum(axis=1)])
            images += differs.shape[1]
        return [self._loss(*(float(total) / images for total in column)) for column in sums.T]

    def compare(self, first: Keep, second: Keep) -> Paired:
        """Both on every image; one pass."""
        sums, squared, change, images = np.zeros((2, 2)), 0.0, 0.0, 0
        for differs, agrees in self._passes([first, second]):
            sums += np.stack([differs.sum(axis=1), agrees.sum(axis=1)])
            change += float((differs[1] - differs[0]).sum())
            squared += float(np.square(differs[1] - differs[0]).sum())
            images += differs.shape[1]
        mean = change / images
        spread = max(0.0, squared / images - mean**2)
        losses = [self._loss(*(float(total) / images for total in column)) for column in sums.T]
        return Paired((losses[0], losses[1]), mean, (spread / max(1, images - 1)) ** 0.5, images)

    def _loss(self, differs: float, agrees: float) -> Loss:
        return Loss(differs, agrees if self.classifier else float("nan"))

    def _passes(self, plans: Sequence[Keep]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Per batch: divergences and agreements, both (P, B)."""
        self._file.seek(0)
        empty = True
        for images in self.images:
            with torch.inference_mode():
                yield self._batch(images, plans)
            empty = False
        if empty:
            raise InputError("no images to measure on: expected at least one batch")
        self._known = True

    def _batch(self, images: Tensor, plans: Sequence[Keep]) -> tuple[np.ndarray, np.ndarray]:
        reference = self._read(images) if self._known else self._write(images)
        answers = [self.model(images, StaticFreezer(keep)).float() for keep in plans]
        differs = [divergence(answer, reference, self.classifier) for answer in answers]
        differs = [torch.nan_to_num(row, nan=torch.inf) for row in differs]  # never the best
        agrees = [answer.argmax(dim=1) == reference.argmax(dim=1) for answer in answers]
        return torch.stack(differs).double().cpu().numpy(), torch.stack(agrees).double().cpu().numpy()

    def _write(self, images: Tensor) -> Tensor:
        answer = self.refer(images).float()
        if not bool(answer.isfinite().all()):
            raise InputError("the model's own answers are not finite: nothing can be measured against them")
        self._width = answer.shape[1]
        self._file.write(answer.cpu().numpy().tobytes())
        return answer

    def _read(self, images: Tensor) -> Tensor:
        data = self._file.read(4 * len(images) * self._width)
        rows = np.frombuffer(data, dtype=np.float32).reshape(len(images), self._width)
        return torch.from_numpy(rows.copy()).to(images.device)
