"""Weights from files: safetensors or torch, with the wrappers that training scripts leave around them.

Torch files are unpickled with `weights_only=True`, always: a pickle that would run code is refused.
"""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tofe_export.errors import CheckpointError

_WRAPPERS = ("model", "state_dict", "state_dict_ema", "model_ema")
_LISTED = 6


def read_file(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    """Read what is in a weights file: a tensor dict (safetensors), or whatever plain data torch saved.

    Raises:
        CheckpointError: missing, truncated, neither format, or a pickle that would execute code.
    """
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise CheckpointError(f"{path} {what}: expected a .safetensors or torch checkpoint file")
    if is_safetensors(path):
        return _read_safetensors(path)
    return _read_torch(path)


def is_safetensors(path: Path) -> bool:
    """Tell the formats apart: by the suffix, or by the JSON that a safetensors file has at byte 8.

    Raises:
        CheckpointError: the file is empty or may not be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    if not head:
        raise CheckpointError(f"{path} is empty: the download or copy was cut off, fetch it again")
    return path.suffix == ".safetensors" or head[8:] == b"{"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}): fetch or copy it again"
        ) from error


def _read_torch(path: Path) -> Any:  # noqa: ANN401 - whatever was saved
    # Namespace: the plain options that DeiT's and timm's training scripts save beside the weights.
    harmless = torch.serialization.safe_globals([argparse.Namespace])
    try:
        with harmless, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on the pickle's protocol; what matters raises
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_unpickling_reason(path, str(error))) from error
    except (RuntimeError, EOFError, OSError, KeyError, IndexError, UnicodeDecodeError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        first = lines[0].partition(". ")[0]
        raise CheckpointError(
            f"{path} is truncated or not a torch checkpoint ({first}): fetch or copy it again"
        ) from error


def _unpickling_reason(path: Path, detail: str) -> str:
    """Tell a pickle that holds code from one that is damaged; torch reports both alike."""
    if "GLOBAL" in detail or "Unsupported class" in detail:
        return (
            f"{path} holds Python objects besides tensors, and loading them could execute code: refused. "
            "Save the weights alone, torch.save(model.state_dict(), FILE), or as safetensors"
        )
    # Torch's own text starts with the advice to load with weights_only=False: the reason stands behind it.
    reason = (detail.rpartition("WeightsUnpickler error:")[2].strip().splitlines() or ["no reason given"])[0]
    return f"{path} is damaged or not a torch checkpoint ({reason}): fetch or copy it again"


def state_dict_in(content: Any, path: Path) -> dict[str, Tensor]:  # noqa: ANN401 - as read
    """Find the state dict: flat, or under model, state_dict, state_dict_ema; `module.` is removed.

    Raises:
        CheckpointError: there is none.
    """
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return state_dict_in(content[key], path)
    if not isinstance(content, Mapping) or not content or not all(map(_is_entry, content.items())):
        raise CheckpointError(
            f"{path} holds no state dict: expected tensors by name, flat or under one of "
            f"{', '.join(_WRAPPERS)}; found {_summary(content)}"
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _is_entry(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and isinstance(item[1], Tensor)


def _summary(content: Any) -> str:  # noqa: ANN401 - as read
    if isinstance(content, Mapping):
        return "a dict with " + (", ".join(repr(key) for key in list(content)[:_LISTED]) or "nothing in it")
    return f"a {type(content).__name__}"


def refuse_non_finite(state: Mapping[str, Tensor], path: Path) -> None:
    """Raise CheckpointError if any weight is NaN or infinite, naming the tensors."""
    bad = [name for name, t in state.items() if t.is_floating_point() and not torch.isfinite(t).all()]
    if bad:
        raise CheckpointError(
            f"{path} has NaN or infinite values in {len(bad)} of {len(state)} tensors, first in "
            f"{', '.join(bad[:_LISTED])}: the training diverged or the file is damaged, use an "
            "earlier one"
        )


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], name: str) -> None:
    """Load `state` into `module`; every key and shape must fit.

    Raises:
        CheckpointError: names what is missing, what is left over, and which shapes differ.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    lines = [
        f"{what}: {_shorten(sorted(items))}"
        for what, items in (("missing", missing), ("not in the model", extra), ("shapes", shapes))
        if items
    ]
    if lines:
        raise CheckpointError(f"the weights do not fit {name}; " + "; ".join(lines) + ". Check --model")
    module.load_state_dict(dict(state))
