"""Trace a ToFe model into a template, once per model, with a symbolic batch.

What comes out of the exporter is tidied here so that passes and people can read it: nodes are called after
the module that made them (`blocks.3.attn.qkv/MatMul`), weights after the node that uses them, and everything
larger than a kilobyte goes into one weights file that all variants share.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from onnxscript import optimizer
from torch import Tensor, nn
from torch.func import functional_call

from tofe_export.graph.passes.bind_budget import BUDGET_INPUT
from tofe_export.graph.take_frames import take_frames
from tofe_export.graph.template import TemplateFreezer, translations
from tofe_export.model.lean import STEPS, lean_copy
from tofe_export.model.selector import CONDITION
from tofe_export.model.tofe import ToFe
from tofe_export.preprocess import Preprocessing

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

EXPORT_OPSET = 18  # the lowest that the exporter writes; `DowngradeOpsetPass` brings it to 17
_INLINE_BYTES = 1024
_ALIGNMENT = 64
_FOLD_LIMIT = 1 << 30  # bytes: fold everything that depends on weights alone, position embeddings included
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True)
class Template:
    """A traced model whose keep counts are not bound yet."""

    model: onnx.ModelProto
    """The graph; large initializers refer to `weights_file` as external data."""
    weights_file: str
    weights_sha256: str
    weights_bytes: int
    batch: str
    """Name of the symbolic batch dimension."""
    output: str
    """Name of the output: "logits", "features" or "tokens"."""


class _Traced(nn.Module):
    """The forward that is traced: images in, and for a conditioned model its scalar b; one output out."""

    def __init__(self, model: ToFe, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, images: Tensor, b: Tensor | None = None) -> Tensor:
        arguments = (images, TemplateFreezer(self.model.backbone.prefix), self.output)
        if b is None:
            return cast(Tensor, self.model(*arguments))
        names = [name for name, _ in self.model.named_buffers() if name.endswith(CONDITION)]
        return cast(Tensor, functional_call(self.model, dict.fromkeys(names, b), arguments))


def trace(
    model: ToFe,
    folder: Path,
    output: str = "head",
    frames: Preprocessing | None = None,
    lean: Sequence[str] = STEPS,
) -> Template:
    """Trace `model` and write its weights to `folder`/weights-<sha256[:12]>.bin.

    `output` is "head" or "tokens". With `frames` the graph takes uint8 frames and normalises them so.
    What is traced is the lean copy of the model; fewer steps of it are for measuring what each brings.

    Raises:
        WriteError: the weights could not be written.
    """
    name, model = "tokens" if output == "tokens" else model.backbone.output, lean_copy(model, output, lean)
    inputs = {"images": torch.zeros(2, 3, *model.backbone.image_size)}
    if model.structure.conditioned:
        inputs[BUDGET_INPUT] = torch.zeros(())
    arguments = tuple(inputs.values())
    symbolic = ({0: torch.export.Dim("batch")}, None)[: len(arguments)]
    graph = export_graph(_Traced(model, output).eval(), arguments, list(inputs), name, symbolic)
    return tidy(graph, folder, name, frames)


def export_graph(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    inputs: list[str],
    output: str,
    dynamic_shapes: tuple[object, ...] | None = None,
) -> ir.Model:
    """Export a module that is ready for inference; everything that depends on weights alone is folded."""
    with torch.no_grad(), _quiet():
        program = torch.export.export(module, arguments, dynamic_shapes=dynamic_shapes, strict=False)
        exported = torch.onnx.export(
            program,
            arguments,
            dynamo=True,
            opset_version=EXPORT_OPSET,
            input_names=inputs,
            output_names=[output],
            custom_translation_table=translations(),
            optimize=True,
        )
        assert exported is not None  # only the deprecated exporter returns None
        graph: ir.Model = exported.model
        optimizer.fold_constants(graph, input_size_limit=_FOLD_LIMIT, output_size_limit=_FOLD_LIMIT)
        optimizer.remove_unused_nodes(graph)
    return graph


def tidy(graph: ir.Model, folder: Path, output: str, frames: Preprocessing | None = None) -> Template:
    """Name nodes and weights of an exported graph and write its weights into `folder`: what passes expect.

    Raises:
        WriteError: the weights could not be written.
    """
    shape = graph.graph.inputs[0].shape
    assert shape is not None  # images were given
    batch = str(shape[0])
    _name_nodes(graph.graph)
    _name_weights(graph.graph)
    if frames is not None:
        take_frames(graph.graph, frames)
    return _externalise(graph, folder, batch, output)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and deprecation notices away from the user's terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _name_nodes(graph: ir.Graph) -> None:
    """Call every node `<module path>/<operator>`, numbered where that is not unique."""
    seen: Counter[str] = Counter()
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        path = module_path([scope for scope in scopes if "." in scope])
        if not scopes and (producer := node.inputs[0] and node.inputs[0].producer()):
            path = str(producer.name).partition("/")[0]  # a decomposed operator lost its scope: its input's
        name = f"{path}/{node.op_type}" if path else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def module_path(scopes: list[str]) -> str:
    """Innermost module as the architecture's own key: `model.backbone.vit.blocks.3` -> `blocks.3`."""
    path = max(scopes, key=len, default="").removeprefix("model").removeprefix(".")
    return path.removeprefix("backbone").removeprefix(".").removeprefix("vit").removeprefix(".")


def _name_weights(graph: ir.Graph) -> None:
    """Name weights by their module path; folded ones (transposed, constants) by the node that uses them."""
    for value in list(graph.initializers.values()):
        if value.name is not None and value.name.startswith("model."):
            name = module_path([value.name])
        else:
            user = next(iter(value.uses()), None)
            name = f"{user.node.name}:{user.idx}" if user is not None else str(value.name)
        graph.initializers.pop(str(value.name))
        value.name = name
        graph.initializers[name] = value


def _bound_with_the_budget(graph: ir.Graph) -> set[str]:
    """Initializers that `BindBudgetPass` folds: operands of what depends on weights and the budget alone."""
    known = {value for value in graph.inputs if value.name == BUDGET_INPUT}
    inline: set[str] = set()
    for node in graph:
        if any(value in known for value in node.inputs):
            weights = [value for value in node.inputs if value is not None and value.is_initializer()]
            if all(value in known or value in weights for value in node.inputs):
                known.update(node.outputs)
                inline.update(str(value.name) for value in weights)
    return inline


def _externalise(graph: ir.Model, folder: Path, batch: str, output: str) -> Template:
    """Write all large initializers that binding does not change into one file, and refer to it."""
    import onnx_ir as ir

    from tofe_export.files import writing

    temporary = folder / "weights.partial"
    digest, offset = hashlib.sha256(), 0
    places: dict[str, tuple[int, int]] = {}
    inline = _bound_with_the_budget(graph.graph)
    with writing(temporary), temporary.open("wb") as file:
        for name, value in graph.graph.initializers.items():
            assert value.const_value is not None  # initializers hold values
            if value.const_value.nbytes < _INLINE_BYTES or name in inline:
                continue
            data = bytes(-offset % _ALIGNMENT) + value.const_value.tobytes()
            file.write(data)
            digest.update(data)
            places[name] = offset + (-offset % _ALIGNMENT), value.const_value.nbytes
            offset += len(data)
    sha256 = digest.hexdigest()
    target = f"weights-{sha256[:12]}.bin"
    with writing(folder / target):
        temporary.replace(folder / target)
    for name, (start, length) in places.items():
        value = graph.graph.initializers[name]
        tensor = value.const_value
        assert tensor is not None
        shape = ir.Shape(tensor.shape.numpy())
        value.const_value = ir.ExternalTensor(
            target, start, length, tensor.dtype, shape=shape, name=name, base_dir=folder
        )
    return Template(ir.to_proto(graph), target, sha256, offset, batch, output)
