"""The experiment lies in `benchmarks/`, a folder of scripts: it is put on `sys.path`, as when one is run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tofe_export.model.backbone import Backbone, create_backbone

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

SMALL = {"img_size": [8, 8], "patch_size": 2, "embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 5}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def backbone() -> Backbone:
    """16 tokens, 4 blocks; weights so large that attention and logits really vary."""
    torch.manual_seed(0)
    backbone = create_backbone("vit_tiny_patch16_224", SMALL)
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter[0].numel() ** -0.5 if parameter.shape[0] > 1 else 0.5)
    return backbone.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
