"""From a decoded picture to the model's input: augmented for training, or exactly as in deployment."""

from __future__ import annotations

from typing import cast

import torch
from PIL import Image
from torch import Tensor

from tofe_export.preprocess import Preprocessing, apply
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import Transform


class EvaluationTransform:
    """The preprocessing of `tofe_export.preprocess`, as a tensor (3, H, W)."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def __call__(self, picture: Image.Image) -> Tensor:
        """Raises ImageError as `apply` does."""
        return torch.from_numpy(apply(picture, self.preprocessing))


def training_transform(preprocessing: Preprocessing, recipe: Recipe) -> Transform:
    """timm's training transform with DeiT's settings; with augment "none" the evaluation transform.

    DeiT: random crop of 8 to 100 % of the area, bicubic; flips; RandAugment (rand-m9-mstd0.5-inc1), which
    replaces its colour jitter of 0.3; one rectangle of noise erased with probability `recipe.erase`.
    """
    if recipe.augment == "none":
        return EvaluationTransform(preprocessing)
    from timm.data.transforms_factory import create_transform

    transform = create_transform(
        input_size=(3, *preprocessing.size),
        is_training=True,
        scale=(0.08, 1.0),
        hflip=0.5,
        color_jitter=0.3,
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation="bicubic",
        re_prob=recipe.erase,
        re_mode="pixel",
        re_count=1,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
    return cast(Transform, transform)
