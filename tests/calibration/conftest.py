"""Pictures and small models whose scores and answers really vary."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SMALL = {
    "img_size": 16,
    "patch_size": 4,
    "embed_dim": 24,
    "depth": 4,
    "num_heads": 2,
    "num_classes": 5,
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, much slower on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def write_pictures() -> Callable[..., Path]:
    """Write `count` noisy pictures, all different: `write_pictures(folder, count, size=(20, 18))`."""

    def write(folder: Path, count: int, size: tuple[int, int] = (20, 18)) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(count)
        for index in range(count):
            colour = random.integers(0, 200, 3)
            pixels = (colour + random.integers(0, 56, (*size, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:03}.png")
        return folder

    return write


@pytest.fixture(scope="session")
def make_checkpoint() -> Callable[..., Any]:
    """A checkpoint with lively weights: `make_checkpoint(seed=0, **options)` of `build_checkpoint`.

    16 patch tokens of width 24, 4 blocks, three selections, five classes.
    """

    def make(seed: int = 0, **options: Any) -> Any:
        import torch

        from tofe_export.model.build import build_checkpoint

        arguments = SMALL | options.pop("arguments", {})
        checkpoint = build_checkpoint("vit_tiny_patch16_224", None, arguments=arguments, **options)
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weight in checkpoint.model.named_parameters():
                spread = weight[0].numel() ** -0.5 if weight.ndim >= 2 else 0.2
                scale = weight.ndim == 1 and name.endswith("weight")  # of a norm
                weight.copy_(float(scale) + spread * torch.randn(weight.shape, generator=random))
        return checkpoint

    return make


@pytest.fixture(scope="session")
def make_batches() -> Callable[..., Any]:
    """Tensors (B, 3, H, W) as the batches of `training.measure`, without noise."""

    def make(images: Any) -> Any:
        import torch

        from tofe_export.training.batch import Batch

        nothing = torch.zeros(0)
        return [Batch(batch, nothing, nothing, nothing) for batch in images]

    return make
