"""Small models whose dense answers really vary, with fresh modules, and noise images with structure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tofe_export.model.backbone import create_backbone
from tofe_export.model.lv_vit import LvVit
from tofe_export.model.tofe import Structure, ToFe

TIMM = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 5}
LV = {"img_size": 48, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 5}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "timm": ("vit_tiny_patch16_224", TIMM),
    "layer scale": ("deit3_small_patch16_224", TIMM),
    "average pooling": ("vit_tiny_patch16_224", TIMM | {"global_pool": "avg"}),
    "lv_vit": ("lvvit_s", LV),
    "wide lv_vit": ("lvvit_s", LV | {"embed_dim": 64}),  # a budget tells its tokens from its stem
    "headless": ("vit_tiny_patch16_224", TIMM | {"num_classes": 0}),
}


def _standardise(backbone: LvVit) -> None:
    """Patches of mean 0 and variance 1: behind rectifiers they would all be nearly the same."""
    stem, noise = backbone.vit.patch_embed, torch.randn(8, 3, *backbone.image_size)
    bias = stem.proj.bias
    assert bias is not None
    scale = stem(noise).std(dim=(0, 1)).mean()
    stem.proj.weight.div_(scale)
    bias.div_(scale)
    bias.sub_(stem(noise).mean(dim=(0, 1)))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ToFe]:
    """A dense model with lively weights and fresh modules: `make_model(kind="timm", seed=0, **structure)`.

    16 patch tokens of width 24, 4 blocks, a selection before each but the first, five classes.
    """

    def make(kind: str = "timm", seed: int = 0, **structure: Any) -> ToFe:
        name, arguments = KINDS[kind]
        torch.manual_seed(seed)
        backbone = create_backbone(name, arguments).eval()
        with torch.no_grad():
            for key, weight in backbone.named_parameters():
                if key.endswith("gamma"):
                    weight.copy_(0.5 + 0.1 * torch.randn_like(weight))
                elif weight.ndim >= 2:
                    weight.copy_(torch.randn_like(weight) * max(1, weight[0].numel()) ** -0.5)
            if isinstance(backbone, LvVit):
                _standardise(backbone)
        model = ToFe(backbone, Structure(**({"locations": (1, 2, 3)} | structure)))
        return model.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def make_images() -> Callable[..., list[Tensor]]:
    """Batches of 16 images for a model: `make_images(model, count=64, seed=0)`."""

    def make(model: ToFe, count: int = 64, seed: int = 0) -> list[Tensor]:
        random = torch.Generator().manual_seed(seed)
        height, width = model.backbone.image_size
        coarse = torch.randn(count, 3, 4, 4, generator=random)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
        noise = torch.randn(count, 3, height, width, generator=random)
        return list((smooth + 0.3 * noise).split(16))

    return make
