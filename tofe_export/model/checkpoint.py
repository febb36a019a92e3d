"""A ToFe checkpoint: one file from which everything else follows.

It carries the weights of backbone, selectors and approximators, how to rebuild the modules, the table
budget -> (keep counts, thresholds, source), the preprocessing, the class names, and whether selectors and
approximators were ever trained. `.safetensors` files hold the plain data as JSON in their header, any other
suffix is a torch file of tensors and plain data, which loads with `weights_only=True`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from tofe_export.budget import check_keep, printed
from tofe_export.errors import CheckpointError, UnsupportedModel, UsageError
from tofe_export.fields import Fields
from tofe_export.files import atomic_file, sha256_file
from tofe_export.keep import Measured
from tofe_export.model.backbone import create_backbone
from tofe_export.model.identify import identify
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.model.weights import (
    is_safetensors,
    load_exactly,
    read_file,
    refuse_non_finite,
    state_dict_in,
)
from tofe_export.preprocess import Preprocessing

FORMAT = "tofe-export checkpoint 1"


@dataclass
class Checkpoint:
    """A ToFe model with all that is known about it."""

    model: ToFe
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None = None
    """Class names, or None."""
    table: tuple[Measured, ...] = ()
    """Measured keep counts per budget."""
    trained: bool = False
    """False as long as selectors and approximators are as they were drawn."""
    history: dict[str, Any] = field(default_factory=dict)
    """How the file came about, for people: plain data."""
    sha256: str = ""
    """Hash of the file this was read from."""

    def save(self, path: Path) -> None:
        """Write the file atomically.

        Raises:
            WriteError: the file could not be written; what was there before is untouched.
        """
        weights = {
            name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()
        }
        plain = {"format": FORMAT, "meta": self._meta()}
        with atomic_file(path) as file:
            if path.suffix == ".safetensors":
                from safetensors.torch import save

                file.write(save(weights, {"tofe": json.dumps(plain)}))
            else:  # through memory: torch reports a full disk as a RuntimeError
                content = io.BytesIO()
                torch.save(plain | {"weights": weights}, content)
                file.write(content.getbuffer())

    def untrained_budgets(self, budgets: Iterable[float]) -> list[float]:
        """Those of `budgets` (GMACs) that conditioned selectors never saw, nor a smaller and a larger one."""
        if not self.model.structure.conditioned or not self.table:
            return []
        trained = [float(printed(row.budget_gmacs)) for row in self.table]
        return [b for b in budgets if not min(trained) <= float(printed(b)) <= max(trained)]

    def _meta(self) -> dict[str, Any]:
        backbone = self.model.backbone
        return {
            "backbone": {"name": backbone.name, "arguments": backbone.arguments},
            "structure": self.model.structure.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "classes": list(self.classes) if self.classes else None,
            "table": [_row_to_json(row) for row in self.table],
            "trained": self.trained,
            "history": self.history,
        }


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a ToFe checkpoint and build its model, in evaluation mode.

    Raises:
        CheckpointError: missing, truncated, unsafe, not finite, or plain backbone weights; the message
            names the command that helps.
    """
    meta, weights = _read(path)
    try:
        checkpoint = _build(meta)
    except (ValueError, TypeError, UsageError, UnsupportedModel) as error:
        raise CheckpointError(f"{path} does not describe a model that can be built: {error}") from error
    load_exactly(checkpoint.model, weights, f"the model that {path} describes")
    refuse_non_finite(weights, path)
    checkpoint.model.eval()
    checkpoint.sha256 = sha256_file(path)
    return checkpoint


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """Plain data and weights of a ToFe checkpoint in either format."""
    content = read_file(path)
    if is_safetensors(path):
        content = _with_header(path, content)
    if not isinstance(content, Mapping) or not isinstance(content.get("format"), str):
        raise CheckpointError(_plain_weights(path, content))
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path} says {content['format']!r}, expected {FORMAT!r}: it was written by another version, "
            "upgrade tofe-export"
        )
    if not isinstance(content.get("meta"), Mapping):
        raise CheckpointError(f"{path} has lost its description of the model (meta): use another copy")
    return content["meta"], state_dict_in(content.get("weights"), path)


def _with_header(path: Path, tensors: dict[str, Tensor]) -> Mapping[str, Any]:
    """Content of a safetensors file in the layout of a torch file; plain weights stay as they are."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = (file.metadata() or {}).get("tofe")
    if header is None:
        return tensors
    try:
        plain = Fields(json.loads(header), "header")
    except ValueError as error:
        raise CheckpointError(f"{path} has a damaged header: {error}. Use another copy") from error
    return {"format": "no format"} | dict(plain.rest()) | {"weights": tensors}


def _plain_weights(path: Path, content: Any) -> str:  # noqa: ANN401 - whatever the file held
    """Explain what to do with a file of plain backbone weights."""
    names = identify(state_dict_in(content, path))
    model = names[0] if len(names) == 1 else "NAME"
    file = quote(str(path))  # as a shell takes it
    found = f" (its keys and shapes fit {', '.join(names)})" if names else ""
    return (
        f"{path} holds plain backbone weights{found}, not a ToFe checkpoint: it has no selectors. "
        "Train them with\n"
        f"    tofe-export train --model {model} --backbone {file} --data DIR --budget 2.0 --out tofe.pt\n"
        "or make an untrained checkpoint to try the export:\n"
        f"    tofe-export init --model {model} --backbone {file} --out tofe.pt"
    )


def _build(meta: Mapping[str, Any]) -> Checkpoint:
    """Rebuild an unloaded checkpoint from its plain data. Raises ValueError on data that does not fit."""
    fields = Fields(dict(meta), "checkpoint")
    backbone = fields.child("backbone")
    structure = fields.child("structure")
    model = ToFe(
        create_backbone(backbone.text("name"), backbone.mapping("arguments")),
        Structure(
            locations=structure.integers("locations"),
            selector=structure.text("selector", ("mlp", "dynamicvit")),  # type: ignore[arg-type]  # checked
            approximator=structure.text("approximator", ("bottleneck", "identity", "depthwise", "block")),  # type: ignore[arg-type]  # checked
            reuse=structure.flag("reuse"),
            conditioned="conditioned" in structure.rest() and structure.flag("conditioned"),
        ),
    )
    classes, num_classes = fields.optional("classes", fields.texts), model.backbone.num_classes
    if classes is not None and len(classes) != num_classes:
        raise ValueError(f"expected {num_classes} class names, one per output, found {len(classes)}")
    table = tuple(_row_from_json(row) for row in fields.children("table"))
    for row in table:
        check_keep(model.cost(), row.keep)
    return Checkpoint(
        model,
        Preprocessing.from_json(fields.mapping("preprocessing")),
        classes,
        table,
        fields.flag("trained"),
        fields.mapping("history"),
    )


def _row_to_json(row: Measured) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(row).items()}


def _row_from_json(fields: Fields) -> Measured:
    return Measured(
        fields.number("budget_gmacs"),
        fields.integers("keep"),
        fields.optional("thresholds", fields.numbers),
        fields.text("source"),
    )
