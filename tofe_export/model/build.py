"""Make a ToFe checkpoint from a backbone: what `init` does, and where training starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from tofe_export.errors import CheckpointError, UsageError
from tofe_export.model.backbone import Backbone, create_backbone
from tofe_export.model.checkpoint import FORMAT, Checkpoint
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.model.weights import read_file, refuse_non_finite, state_dict_in

IMAGENET_CLASSES = 1000


def build_checkpoint(
    name: str,
    weights: Path | None,
    *,
    selector: str = "mlp",
    approximator: str = "bottleneck",
    reuse: bool = True,
    conditioned: bool = False,
    locations: Sequence[int] = (),
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    classes: tuple[str, ...] | None = None,
    preparation: Mapping[str, Any] | None = None,
    seed: int = 0,
    made_by: str = "tofe-export init",
) -> Checkpoint:
    """Put fresh selectors and approximators into the backbone `name`.

    `weights` are plain backbone weights in the architecture's official layout, or None for random ones.
    `conditioned` selectors know the budget, so that one model can be trained for several. `preparation`
    overrides fields of the backbone's own preprocessing where it is not None; `seed` and `made_by` are noted
    in the history.

    Raises:
        CheckpointError: the weights are missing, damaged, not finite or of another architecture.
        UnsupportedModel: an architecture that ToFe cannot be put into.
        UsageError: locations or class names that do not fit.
    """
    state = _read(weights) if weights else None
    chosen = dict(arguments or {})
    if image_size is not None:
        chosen["img_size"] = list(image_size)
    if num_classes is None and state is not None and "num_classes" not in chosen:
        num_classes = _classes_in(state)
    if num_classes is not None:
        chosen["num_classes"] = num_classes
    backbone = create_backbone(name, chosen)
    if state is not None:
        backbone.load_weights(state)
    structure = Structure(
        tuple(locations) or backbone.locations,
        selector,  # type: ignore[arg-type]  # click checked
        approximator,  # type: ignore[arg-type]  # click checked
        reuse,
        conditioned,
    )
    overrides = {key: value for key, value in (preparation or {}).items() if value is not None}
    return Checkpoint(
        ToFe(backbone, structure).eval(),
        replace(backbone.preprocessing(), **overrides),
        _class_names(classes, backbone),
        trained=False,
        history={
            "made by": made_by,
            "backbone file": weights.name if weights else None,
            "seed": seed,
        },
    )


def _read(path: Path) -> dict[str, Tensor]:
    content = read_file(path)
    if isinstance(content, Mapping) and (
        content.get("format") == FORMAT or any(str(key).startswith("backbone.vit.") for key in content)
    ):
        raise CheckpointError(f"{path} is a ToFe checkpoint already: give it to `tofe-export onnx --ckpt`")
    state = state_dict_in(content, path)
    refuse_non_finite(state, path)
    return state


def _classes_in(state: Mapping[str, Tensor]) -> int | None:
    """Number of classes that the weights' head has; 0 if they have none; None if that cannot be told."""
    bias = state.get("head.bias")
    if bias is not None and bias.ndim == 1:
        return int(bias.shape[0])
    return 0 if "norm.weight" in state or "pos_embed" in state else None


def _class_names(given: tuple[str, ...] | None, backbone: Backbone) -> tuple[str, ...] | None:
    """Names as given, or ImageNet-1k's for a head of 1000 classes."""
    if given is not None:
        if len(given) != backbone.num_classes:
            raise UsageError(
                f"expected {backbone.num_classes} class names, one per output, found {len(given)}"
            )
        return given
    if backbone.num_classes != IMAGENET_CLASSES:
        return None
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(f"{wnid} {info.label_name_to_description(wnid)}" for wnid in info.label_names())
