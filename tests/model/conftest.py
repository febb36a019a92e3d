"""Small models whose weights are drawn so that scores, attention and logits really vary.

A fresh initialisation (0.02 everywhere, LayerScale 1e-5, approximators that are the identity) makes almost
any forward look right. Here every linear layer has a standard deviation of fan_in ** -0.5, LayerScale is
about 0.5, batch norms have statistics, and no approximator is the identity unless it has no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tofe_export.model.backbone import create_backbone
from tofe_export.model.tofe import Structure, ToFe

SMALL = {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3}
TOKEN_NAMES = ("pos_embed", "cls_token", "dist_token", "reg_token", "latent")


def _draw(module: nn.Module, seed: int = 0) -> None:
    random = torch.Generator().manual_seed(seed)

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=random)

    with torch.no_grad():
        for name, weight in module.named_parameters():
            last = name.rpartition(".")[2]
            if last in TOKEN_NAMES:
                weight.copy_(0.5 * normal(weight))
            elif last == "gamma":
                weight.copy_(0.5 + 0.1 * normal(weight))
            elif weight.ndim >= 2:
                weight.copy_(normal(weight) * weight[0].numel() ** -0.5)
            elif last == "weight":
                weight.copy_(1 + 0.2 * normal(weight))
            else:
                weight.copy_(0.2 * normal(weight))
        for name, statistic in module.named_buffers():
            if name.endswith("running_mean"):
                statistic.copy_(0.1 * normal(statistic))
            elif name.endswith("running_var"):
                statistic.copy_(1 + 0.3 * normal(statistic).tanh())


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, much slower on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def draw() -> Callable[..., None]:
    """Draw all weights of a module, in place: `draw(module, seed=0)`."""
    return _draw


@pytest.fixture(scope="session")
def make_model() -> Callable[..., ToFe]:
    """A small ToFe in evaluation mode: `make_model(name, arguments, locations, seed, **structure)`.

    16 patch tokens of width 48 and ten classes, unless `arguments` say otherwise.
    """

    def make(
        name: str = "deit_tiny_patch16_224",
        arguments: dict[str, Any] | None = None,
        locations: tuple[int, ...] = (1, 2, 3),
        seed: int = 0,
        **structure: Any,
    ) -> ToFe:
        arguments = SMALL | {"num_classes": 10} | (arguments or {})
        model = ToFe(create_backbone(name, arguments), Structure(locations, **structure)).eval()
        _draw(model, seed)
        return model.requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def make_images() -> Callable[..., Tensor]:
    """Noise images for a model: `make_images(model, count=2, seed=1)`."""

    def make(model: ToFe, count: int = 2, seed: int = 1) -> Tensor:
        height, width = model.backbone.image_size
        return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def difference() -> Callable[..., float]:
    """Largest difference of two tensors, relative to the range of the second: parity's measure."""

    def measure(found: Tensor, expected: Tensor) -> float:
        found, expected = found.detach(), expected.detach()
        assert found.shape == expected.shape
        span = float(expected.max() - expected.min())
        assert span > 0.1, "the expected tensor hardly varies: this comparison would prove nothing"
        return float((found - expected).abs().max()) / span

    return measure
