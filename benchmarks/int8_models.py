"""The small models that `int8.py accuracy` judges, trained on digits or on CIFAR-10: dense, then as ToFe.

Digits are scikit-learn's. The dense model of CIFAR-10 is that of the accuracy experiment's medium size, whose
folder of backbones may be given as the folder of work.

One of the models has a massive activation, which large vision transformers grow by themselves and small ones
do not: single numbers of the residual stream, in the same channel for all pictures and nearly the same for
all, of more than 100 and about 1,000 times the median ("Massive Activations in Large Language Models", Sun et
al., COLM 2024, which has a section on vision transformers), on patch tokens of the background ("Vision
Transformers Need Registers", Darcet et al., ICLR 2024). Here one is put there before training: 1,000 in one
channel of the position embedding of the top left patch, which is black in most digits and nearly so in all
(the median of the stream is 1). Everything is then trained with it, so this imitates what such models have,
not how they get it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import demo
import torch
from accuracy.settings import MEDIUM
from accuracy.tasks import load_task
from accuracy.training import dense_backbone, fresh_backbone
from dense import draw, save_weights, train_dense

from tofe_export.budget import dense_macs, gmacs
from tofe_export.errors import UsageError
from tofe_export.model.backbone import Backbone, create_backbone
from tofe_export.model.build import build_checkpoint
from tofe_export.training.data import open_data
from tofe_export.training.recipe import Recipe

MASSIVE = 1000.0


CIFAR = (
    "--epochs 1 --fixed-epochs 0.1 --batch-size 128 --lr 2e-3 --min-lr 2e-5 --backbone-lr-scale 0.25 "
    "--ema 0.98 --lambda-apr 0.2 --clip-grad 1 --budget-control multiplier --augment none"
)


@dataclass(frozen=True)
class Small:
    """A model to train."""

    label: str
    name: str
    arguments: dict[str, Any]
    side: int
    recipe: Recipe | None
    """Of the dense model, on digits; None for CIFAR-10, whose dense model the accuracy experiment makes."""
    shares: tuple[float, float]
    """Budgets as shares of the dense cost."""
    tofe: str = demo.TOFE
    massive: float = 0.0
    """Put on the residual stream before training, in channel 0 of the first patch token."""

    @property
    def data(self) -> str:
        """What it is trained on and judged by."""
        return "digits" if self.recipe else "CIFAR-10"


MODELS = (
    Small("ViT", demo.NAME, demo.ARGUMENTS, demo.SIDE, demo.DENSE, (0.5, 0.7)),
    Small(
        "LV-ViT",
        "lvvit_s",
        {"embed_dim": 320, "depth": 12, "num_heads": 5},
        48,
        replace(demo.DENSE, epochs=3, lr=1e-3),
        (0.7, 0.85),
        demo.TOFE.replace("--epochs 8", "--epochs 3").replace("--lr 3e-3", "--lr 1e-3"),
    ),
    Small(
        "massive ViT",
        demo.NAME,
        demo.ARGUMENTS,
        demo.SIDE,
        demo.DENSE,
        (0.5, 0.7),
        massive=MASSIVE,
    ),
    Small(
        "CIFAR-10 ViT",
        MEDIUM.model,
        {key: value for key, value in MEDIUM.arguments.items() if key not in ("img_size", "num_classes")},
        32,
        None,
        (0.5, 0.7),
        CIFAR,
    ),
)


def folders(model: Small, work: Path, cifar: Path | None) -> tuple[Path, Path]:
    """Pictures to train on and held-out ones, a folder per class in each; digits are written once.

    Raises UsageError where CIFAR-10 is needed and not given.
    """
    if model.recipe is None:
        if cifar is None:
            raise UsageError(
                f"{model.label} needs --data: CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg"
            )
        return cifar / "train", cifar / "test"
    digits = work / "digits"
    if not digits.exists():
        demo.write_digits(digits)
    return digits / "train", digits / "val"


def trained(model: Small, work: Path, cifar: Path | None) -> Path:
    """A ToFe checkpoint for two budgets; taken from `work` if it is there."""
    stem = model.label.lower().replace(" ", "-")
    made = work / f"{stem}.pt"
    if made.exists():
        return made
    pictures = folders(model, work, cifar)[0].parent
    save_weights(_dense(model, work, pictures), work / f"{stem}.pth")
    options = f"--model {model.name} --image-size {model.side} --crop 1.0 " + " ".join(
        f"--model-arg {key}={value}" for key, value in model.arguments.items()
    )
    budgets = ",".join(f"{budget:.3g}" for budget in budgets_of(model))
    line = (
        f"tofe-export train {options} --backbone {stem}.pth --data {shlex.quote(str(pictures.resolve()))} "
        f"--budget {budgets} {model.tofe} --workers 0 --cpu --out {stem}.pt"
    )
    if status := demo.run(line, work):
        raise SystemExit(status)
    return made


def _dense(model: Small, work: Path, pictures: Path) -> Backbone:
    """The trained dense model."""
    if model.recipe is None:
        plain = fresh_backbone(MEDIUM, 0)
        task = load_task(MEDIUM, 0, (len(plain.locations), plain.tokens), pictures)
        return dense_backbone(MEDIUM, 0, task, work / f"{MEDIUM.dense_fingerprint()}-seed0.pt")
    backbone = create_backbone(model.name, {"img_size": model.side, "num_classes": 10, **model.arguments})
    draw(backbone, seed=0)
    make_massive(backbone, model.massive)
    preprocessing = replace(backbone.preprocessing(), crop=1.0)
    data = open_data(str(pictures), preprocessing, model.recipe, noise_shape=(0, 0))
    return train_dense(backbone, data.train, model.recipe, cpu=True)


@torch.no_grad()
def make_massive(backbone: Backbone, size: float) -> None:
    """Add `size` to channel 0 of the first patch token's position."""
    positions = backbone.vit.get_parameter("pos_embed")
    positions[0, backbone.prefix, 0] += size


def budgets_of(model: Small) -> list[float]:
    """Shares of the dense cost, in GMACs with three digits."""
    arguments = {**model.arguments, "num_classes": 10}
    checkpoint = build_checkpoint(model.name, None, image_size=(model.side, model.side), arguments=arguments)
    dense = gmacs(dense_macs(checkpoint.model.cost()))
    return [float(f"{share * dense:.3g}") for share in model.shares]
