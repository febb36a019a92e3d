"""Small students with trainable weights that are drawn so that scores and logits really vary.

A fresh initialisation (0.02 everywhere, approximators that are the identity) hides most mistakes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tofe_export.model.backbone import create_backbone
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.training.batch import Batch

CLASSES = 5
SMALL = {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3, "num_classes": CLASSES}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_student() -> Callable[..., ToFe]:
    """A small trainable ToFe: `make_student(name, arguments, seed, **structure)`.

    16 patch tokens of width 48, 4 blocks, a selection before each but the first, five classes.
    """

    def make(
        name: str = "deit_tiny_patch16_224",
        arguments: dict[str, Any] | None = None,
        seed: int = 0,
        **structure: Any,
    ) -> ToFe:
        backbone = create_backbone(name, SMALL | (arguments or {}))
        model = ToFe(backbone, Structure(**({"locations": (1, 2, 3)} | structure)))
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight_name, weight in model.named_parameters():
                spread = weight[0].numel() ** -0.5 if weight.ndim >= 2 else 0.2
                scale = weight.ndim == 1 and weight_name.endswith("weight")  # of a norm
                weight.copy_(float(scale) + spread * torch.randn(weight.shape, generator=random))
        return model

    return make


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """A batch of noise for a model: `make_batch(model, count=4, seed=0)`, targets as class indices."""

    def make(model: ToFe, count: int = 4, seed: int = 0) -> Batch:
        random = torch.Generator().manual_seed(seed)
        backbone = model.backbone
        uniform = torch.rand(count, model.stages, backbone.tokens, generator=random)
        return Batch(
            torch.randn(count, 3, *backbone.image_size, generator=random),
            torch.randint(backbone.num_classes, (count,), generator=random),
            torch.arange(count),
            uniform.clamp(1e-6, 1 - 1e-6).logit(),
        )

    return make
