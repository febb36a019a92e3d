"""The sizes of the experiment: all that a run depends on, besides its arm, budget and seed.

Learning rates were chosen on seed 100, which is no test seed: one grid for every method, at the lowest
budget, where methods differ most (`pilot.py`). The paper's 1e-4 belongs to 37 500 steps on ImageNet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tofe_export.files import sha256_bytes
from tofe_export.training.recipe import Recipe


@dataclass(frozen=True)
class Rates:
    """What the pilot chose for one method."""

    lr: float
    backbone: float = 1.0
    """The backbone's learning rate as a multiple of `lr`."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size of the experiment."""

    name: str
    task: str
    model: str
    arguments: Mapping[str, Any]
    budgets: tuple[float, ...]
    """Shares of the dense cost, increasing."""
    compared: tuple[float, ...]
    """The budgets at which every arm runs; the others are for the frontier."""
    seeds: tuple[int, ...]
    batch_size: int
    dense_epochs: int
    dense_lr: float
    epochs: int
    """Of every fine-tuning, from the same dense backbone."""
    rates: Mapping[str, Rates]
    measured: int
    """Training images on which keep counts and thresholds are measured."""
    shift: int
    """Training images are moved by up to so many pixels."""
    flip: bool
    recipe: Mapping[str, Any]
    """What all trainings share."""

    def dense_recipe(self, seed: int) -> Recipe:
        """Training the backbone from scratch."""
        return Recipe(
            **self._shared(seed),
            epochs=self.dense_epochs,
            lr=self.dense_lr,
            min_lr=self.dense_lr / 50,
            fixed_epochs=0,
            warmup_epochs=self.dense_epochs / 12,
        )

    def fine_tuning(self, method: str, seed: int, **changes: Any) -> Recipe:  # noqa: ANN401 - recipe fields
        """Fine-tuning by `method`; min_lr is lr / 50 and the backbone waits a sixth, as in the paper."""
        rates = self.rates[method]
        chosen = {
            "epochs": self.epochs,
            "lr": rates.lr,
            "min_lr": rates.lr / 50,
            "backbone_lr_scale": rates.backbone,
            "fixed_epochs": 0,
        }
        return Recipe(**{**self._shared(seed), **chosen, **changes})

    def waiting(self) -> float:
        """Epochs during which a backbone with new modules is fixed: 5 of 30 in the paper."""
        return self.epochs / 6

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data = {item.name: getattr(self, item.name) for item in fields(self)}
        return data | {
            "arguments": dict(self.arguments),
            "recipe": dict(self.recipe),
            "rates": {method: asdict(rates) for method, rates in self.rates.items()},
        }

    def fingerprint(self) -> str:
        """Changes with everything that results depend on, seeds and budgets apart."""
        return self._hash_without("seeds", "budgets", "compared")

    def dense_fingerprint(self) -> str:
        """Changes with everything that a dense backbone depends on, the seed apart."""
        return self._hash_without("seeds", "budgets", "compared", "epochs", "rates", "measured")

    def _hash_without(self, *names: str) -> str:
        data = {name: value for name, value in self.to_json().items() if name not in names}
        return sha256_bytes(json.dumps(data, sort_keys=True).encode())[:12]

    def _shared(self, seed: int) -> dict[str, Any]:
        return {"seed": seed, "batch_size": self.batch_size, **self.recipe}


SMALL = Size(
    name="small",
    task="digits",
    model="vit_tiny_patch16_224",
    arguments={
        "img_size": [32, 32],
        "patch_size": 4,
        "embed_dim": 32,
        "depth": 8,
        "num_heads": 2,
        "mlp_ratio": 2,
        "num_classes": 10,
        "weight_init": "jax",
    },
    budgets=(0.375, 0.5, 0.7),
    compared=(0.375, 0.5),
    seeds=(0, 1, 2, 3, 4),
    batch_size=32,
    dense_epochs=40,
    dense_lr=2e-3,
    epochs=12,
    rates={
        "tofe": Rates(1e-2, 0.1),
        "dynamicvit": Rates(3e-3),
        "evit": Rates(1e-3),
        "tome": Rates(3e-3),
        "idlevit": Rates(3e-3),
        "control": Rates(3e-3),
    },
    measured=450,
    shift=2,
    flip=False,
    # Eq. 10 compares features before any norm, and they are large here: with the paper's 2 it begins 30 times
    # as large as the class loss, the first selector learns to freeze nothing, and the budget is missed.
    recipe={"lambda_apr": 0.2, "mixup": 0, "cutmix": 0, "smoothing": 0.1, "ema": 0, "clip_grad": 1.0},
)

# CIFAR-10 at a size that a processor can train: the backbone of `fit`'s comparison. Nothing was searched for
# here; the weight of Eq. 10 is the small size's.
MEDIUM = Size(
    name="medium",
    task="cifar10",
    model="vit_tiny_patch16_224",
    arguments={
        "img_size": [32, 32],
        "patch_size": 4,
        "embed_dim": 64,
        "depth": 8,
        "num_heads": 2,
        "mlp_ratio": 2,
        "num_classes": 10,
    },
    budgets=(0.375, 0.5, 0.7),
    compared=(0.375, 0.5, 0.7),
    seeds=(0,),
    batch_size=128,
    dense_epochs=6,
    dense_lr=2e-3,
    epochs=2,
    rates={
        "tofe": Rates(2e-3, 0.25),
        "dynamicvit": Rates(2e-3, 0.25),
        "evit": Rates(5e-4),
        "tome": Rates(5e-4),
        "idlevit": Rates(5e-4),
        "control": Rates(5e-4),
    },
    measured=5000,
    shift=4,
    flip=True,
    recipe={
        "lambda_apr": 0.2,
        "mixup": 0,
        "cutmix": 0,
        "smoothing": 0.1,
        "ema": 0,
        "clip_grad": 1.0,
    },
)

FULL = Size(
    name="full",
    task="cifar10",
    model="vit_tiny_patch16_224",
    arguments={
        "img_size": [32, 32],
        "patch_size": 2,
        "embed_dim": 192,
        "depth": 12,
        "num_heads": 3,
        "mlp_ratio": 4,
        "num_classes": 10,
    },
    budgets=(1 / 3, 0.5, 2 / 3),
    compared=(0.5,),
    seeds=(0, 1, 2),
    batch_size=256,
    dense_epochs=200,
    dense_lr=1e-3,
    epochs=30,
    rates={
        "tofe": Rates(1e-4),
        "dynamicvit": Rates(1e-3, 0.01),
        "evit": Rates(8e-5),
        "tome": Rates(8e-5),
        "idlevit": Rates(8e-5),
        "control": Rates(1e-4),
    },
    measured=5000,
    shift=4,
    flip=True,
    recipe={"mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1, "precision": "bf16"},
)

SIZES = {size.name: size for size in (SMALL, MEDIUM, FULL)}
