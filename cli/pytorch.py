"""A ToFe checkpoint as a `Session`, so that PyTorch is measured by the code that measures the graphs.

Host floor: torch is imported when a checkpoint is opened, and a device without it says which extra brings it.
The model runs in float32 on the CPU, whatever the variant's precision: it is what the variant is compared
with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from tofe_export.errors import MissingExtra, UsageError
from tofe_export.manifest import Manifest, Variant
from tofe_export.runtime.session import Array, Session, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor


def open_checkpoint(path: Path, manifest: Manifest) -> Callable[[Variant], Session]:
    """Load the checkpoint that a bundle was made from; the result gives a session per variant.

    Raises `MissingExtra` (no torch), `CheckpointError`, and `UsageError` for another checkpoint.
    """
    try:
        import torch  # noqa: F401 - the question is whether it is there
    except ImportError as error:
        raise MissingExtra("torch", "export") from error
    from tofe_export.model.checkpoint import load_checkpoint
    from tofe_export.model.freezer import AdaptiveFreezer, StaticFreezer

    checkpoint = load_checkpoint(path)
    if checkpoint.sha256 != manifest.model.checkpoint_sha256:
        raise UsageError(
            f"{path}: expected the checkpoint that the bundle was made from (sha256 "
            f"{manifest.model.checkpoint_sha256[:12]}...), found another one ({checkpoint.sha256[:12]}...)"
        )
    model = checkpoint.model

    def open_variant(variant: Variant) -> Session:
        if variant.dense:
            return PyTorchSession(model.backbone.dense, manifest, "batch")
        freezer = (
            AdaptiveFreezer(variant.thresholds) if variant.thresholds else StaticFreezer(variant.keep or ())
        )

        def forward(images: Tensor) -> Tensor:
            model.set_budget(variant.budget_gmacs)  # all variants share the model
            return cast("Tensor", model(images, freezer))

        return PyTorchSession(forward, manifest, 1 if variant.thresholds else "batch")

    return open_variant


class PyTorchSession(Session):
    """`forward` (B, 3, H, W) -> (B, C) as a session with the input `images` and the output `logits`."""

    def __init__(self, forward: Callable[[Tensor], Tensor], manifest: Manifest, batch: int | str) -> None:
        size = manifest.preprocessing.size
        float32 = np.dtype(np.float32)
        self._forward = forward
        self.inputs = {"images": TensorInfo("images", float32, (batch, 3, *size))}
        self.outputs = {"logits": TensorInfo("logits", float32, (batch, manifest.model.num_classes))}
        self.provider = "cpu"

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        import torch

        with torch.inference_mode():
            return {"logits": self._forward(torch.from_numpy(feeds["images"])).numpy()}

    def close(self) -> None:
        """Nothing to give back: all variants share the checkpoint's model."""
