"""What commands of the host floor do first: look for the packages they need, load the checkpoint, warn."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tofe_export.cli import console
from tofe_export.errors import MissingExtra
from tofe_export.graph.collection import no_collection

if TYPE_CHECKING:
    from tofe_export.model.checkpoint import Checkpoint

_GRAPH = ("onnx", "onnx_graphsurgeon")
_EXPORT = ("torch", "timm", "safetensors", "onnxscript", *_GRAPH)


def require_export() -> None:
    """Raise MissingExtra unless everything of the extra `export` is installed."""
    _require(_EXPORT, "export")


def require_onnx() -> None:
    """Raise MissingExtra unless graphs can be read."""
    _require(("onnx",), "graph")


def require_graph() -> None:
    """Raise MissingExtra unless graphs can be read and edited, which needs no PyTorch: the extra `graph`."""
    _require(_GRAPH, "graph")


def _require(packages: tuple[str, ...], extra: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtra(package, extra)


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
