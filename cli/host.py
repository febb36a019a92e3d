"""What commands of the host floor do first: make sure that torch is there, load the checkpoint, warn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tofe_export.cli import console
from tofe_export.errors import MissingExtra
from tofe_export.graph.collection import no_collection

if TYPE_CHECKING:
    from tofe_export.model.checkpoint import Checkpoint

_PACKAGES = ("torch", "timm", "safetensors", "onnx", "onnxscript", "onnx_graphsurgeon")


def require_export() -> None:
    """Raise MissingExtra unless everything of the extra `export` is installed."""
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingExtra(package, "export")


def load(path: Path) -> Checkpoint:
    """Read a ToFe checkpoint, and say loudly if its selectors were never trained."""
    with no_collection():
        from tofe_export.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    if not checkpoint.trained:
        console.warn(
            f"{path}: selectors and approximators are NOT TRAINED. Speed and parity can be judged, answers "
            "cannot: train them with `tofe-export train` before use"
        )
    return checkpoint
