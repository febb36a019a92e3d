"""The evaluation transform is the deployment's; the training transform is DeiT's and repeats under a seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tofe_export.preprocess import Preprocessing, apply
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import Transform
from tofe_export.training.seeding import AUGMENT, seeded
from tofe_export.training.transforms import EvaluationTransform, training_transform

PRE = Preprocessing((32, 24), 0.875, "center", "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def picture() -> Image.Image:
    pixels = np.random.RandomState(0).randint(0, 256, (40, 50, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


def run(transform: Transform, seed: int) -> torch.Tensor:
    with seeded(AUGMENT, seed):
        return transform(picture())


def test_evaluation_is_preprocessing() -> None:
    found = EvaluationTransform(PRE)(picture())
    assert found.shape == (3, 32, 24)
    assert np.array_equal(found.numpy(), apply(picture(), PRE))


def test_without_augmentation_training_sees_what_deployment_sees() -> None:
    transform = training_transform(PRE, Recipe(budgets=(1.0,), augment="none"))
    assert torch.equal(run(transform, 0), torch.from_numpy(apply(picture(), PRE)))


def test_augmentation_repeats_under_a_seed() -> None:
    transform = training_transform(PRE, Recipe(budgets=(1.0,)))
    seen = [run(transform, seed) for seed in range(8)]
    assert all(image.shape == (3, 32, 24) and image.dtype == torch.float32 for image in seen)
    fresh = training_transform(PRE, Recipe(budgets=(1.0,)))
    assert all(torch.equal(run(fresh, seed), image) for seed, image in enumerate(seen))
    assert len({image.numpy().tobytes() for image in seen}) == 8


def test_augmentation_normalises_with_the_model_s_statistics() -> None:
    half = Preprocessing((16, 16), 0.9, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    recipe = Recipe(budgets=(1.0,), erase=0.0)
    for seed in range(4):
        found = run(training_transform(half, recipe), seed)
        assert -1 <= float(found.min()) <= float(found.max()) <= 1


@pytest.mark.parametrize(("erase", "outside"), [(1.0, True), (0.0, False)])
def test_erasing_puts_noise_into_a_rectangle(erase: float, outside: bool) -> None:
    recipe = Recipe(budgets=(1.0,), erase=erase)
    dark = Preprocessing((16, 16), 0.9, "center", "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    found = [run(training_transform(dark, recipe), seed) for seed in range(6)]
    assert any(float(image.min()) < 0 for image in found) is outside  # pixels are 0 to 1, noise is not
