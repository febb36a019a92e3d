"""Models with weights drawn so that parity means something, where no trained weights can be had.

timm's own initialisation (0.02 everywhere) gives nearly constant logits and scores: every mistake would
hide in rounding. Here every linear layer has variance 1 / fan-in, norms and LayerScale differ per channel,
approximators really change their tokens, and the head tells the pictures apart so that many classes win.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tofe_export.model.build import build_checkpoint
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.tofe import ToFe


def drawn_checkpoint(name: str, seed: int = 0, **options: object) -> Checkpoint:
    """A checkpoint of `name` with lively weights; `options` go to `build_checkpoint`."""
    torch.manual_seed(seed)
    checkpoint = build_checkpoint(name, None, **options)  # type: ignore[arg-type]  # passed through
    enliven(checkpoint.model, seed)
    return checkpoint


@torch.no_grad()
def enliven(model: ToFe, seed: int) -> None:
    """Draw all weights anew, in place."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: torch.Tensor, std: float, mean: float = 0.0) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * std + mean)

    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2 and name.endswith("weight"):  # linear and convolution
            normal(parameter, parameter[0].numel() ** -0.5)
        elif name.endswith("gamma"):  # LayerScale
            normal(parameter, 0.2, 0.5)
        elif parameter.ndim == 1 and name.endswith("weight"):  # norms
            normal(parameter, 0.1, 1.0)
        elif name.endswith("bias"):
            normal(parameter, 0.1)
        else:  # tokens and positions
            normal(parameter, 0.5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            normal(buffer, 0.1)
        elif name.endswith("running_var"):
            buffer.copy_(1 + 0.3 * torch.rand(buffer.shape, generator=generator))


@torch.no_grad()
def spread_head(model: ToFe, images: np.ndarray) -> None:
    """Give the head weights with which many classes win on `images` (n, 3, H, W).

    A random backbone's features lie close together and differ in few directions. The head reads them
    relative to their mean, with those directions evened out by half (a full whitening would amplify
    rounding instead of the signal).
    """
    head = getattr(model.backbone.vit, "head", None)
    if not isinstance(head, nn.Linear):
        return
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    for chunk in torch.from_numpy(images).split(8):
        model.backbone.dense(chunk)
    hook.remove()
    features = torch.cat(seen)  # (n, D)
    mean = features.mean(dim=0)
    _, sizes, directions = torch.linalg.svd(features - mean, full_matrices=False)
    scale = (sizes / sizes[0]).clamp(min=0.01) ** -0.5
    random = torch.randn(head.out_features, len(sizes), generator=torch.Generator().manual_seed(0))
    weight = (random * scale) @ directions
    for layer in (head, getattr(model.backbone.vit, "head_dist", None)):
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(weight)
            layer.bias.copy_(-weight @ mean)
    auxiliary = getattr(model.backbone.vit, "aux_head", None)
    if isinstance(auxiliary, nn.Linear):
        auxiliary.weight.mul_(0.1)
        auxiliary.bias.zero_()
