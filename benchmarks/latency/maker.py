"""Make every side of a case as an ONNX file.

    plain            torch.onnx.export of the architecture as its library has it: what people have today
    dense, scatter, concat          ours: traced once, bound per lowering and batch
    oracle           ours with slices in place of every choice
    straightforward  torch.onnx.export of ToFe in PyTorch, with topk, gather and scatter
    dynamicvit       ToFe without reuse, with its predictor, through our own trace and binding
    evit, tome, idlevit             graphs of their own (`rivals/`), with our passes run over them
    144 px, 160 px, 5 blocks, 6 blocks, deit_tiny   smaller models through our own dense export

The methods are set so that their executed MACs are nearest to those of the cheaper of our two lowerings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from latency.cases import DENSE, METHODS, OURS, PLAIN, STRAIGHT, Case
from latency.models import drawn, images_of, plain_model, plan_of, redrawn, smaller
from latency.oracle import bind_oracle
from latency.rivals import dynamicvit, evit, idlevit, tome
from latency.sides import Side, SideList
from latency.sources import sources_of
from latency.straightforward import Straightforward
from tofe_export.graph.bind import Binding, bind
from tofe_export.graph.macs import count_macs
from tofe_export.graph.trace import Template, export_graph, tidy, trace
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.tofe import ToFe

Setting = dict[str, Any]


class Maker:
    """Makes the sides of one case; models and traces are kept, so that a batch costs a binding."""

    def __init__(self, case: Case, sides: SideList) -> None:
        self.case, self.sides = case, sides
        self.folder = sides.folder
        self._traces: dict[str, tuple[ToFe, Template]] = {}
        self._rivals: dict[str, Any] = {}

    def make(self, name: str, batch: int) -> Side:
        """The side, made if it is not there."""
        made_from = sources_of(name)
        if found := self.sides.find(name, batch, made_from):
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        file = f"{name.replace(' ', '_')}-b{batch}.onnx"
        setting = self._maker(name)(name, batch, self.folder / file)
        gmacs = executed_gmacs(self.folder / file, batch)
        return self.sides.add(Side(name, file, batch, gmacs, made_from, setting))

    def _maker(self, name: str) -> Callable[[str, int, Path], Setting]:
        if name == PLAIN:
            return self._plain
        if name == STRAIGHT:
            return self._straightforward
        if name in METHODS:
            return self._method
        return self._size if smaller(name) else self._ours

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The case's ToFe model."""
        return drawn(self.case)

    @cached_property
    def keep(self) -> tuple[int, ...]:
        """K_1 .. K_S of the case's budget."""
        return plan_of(self.checkpoint, self.case).keep

    def _plain(self, name: str, batch: int, path: Path) -> Setting:
        export_plain(plain_model(self.checkpoint, self.case), images_of(self.checkpoint, batch), path)
        return {}

    def _straightforward(self, name: str, batch: int, path: Path) -> Setting:
        model = Straightforward(self.checkpoint.model, self.keep)
        export_plain(model, images_of(self.checkpoint, batch), path)
        return {"keep": self.keep}

    def _ours(self, name: str, batch: int, path: Path) -> Setting:
        """Dense, scatter, concat and the oracle."""
        model, template = self._traced("own", lambda: self.checkpoint.model)
        lowering = name if name in (DENSE, *OURS) else "concat"
        binding = binding_of(model, lowering, batch, () if name == DENSE else self.keep)
        make = bind if name in (DENSE, *OURS) else bind_oracle
        onnx.save(make(template, binding, _metadata(name)), path)
        return {} if name == DENSE else {"keep": self.keep}

    def _size(self, name: str, batch: int, path: Path) -> Setting:
        """Another resolution, fewer blocks, or a smaller model, dense."""
        changes = smaller(name)
        model, template = self._traced(name, lambda: drawn(self.case, **changes).model)
        onnx.save(bind(template, binding_of(model, DENSE, batch), _metadata(name)), path)
        return changes

    def _method(self, name: str, batch: int, path: Path) -> Setting:
        """A neighbour at the executed MACs of the cheaper of ours."""
        target = min(self.make(ours, batch).gmacs for ours in OURS) * 1e9
        backbone = self.checkpoint.model.backbone
        if name not in self._rivals:
            self._rivals[name] = _AT_MACS[name](backbone, target)
        rival = self._rivals[name]
        kept = tuple(rival.kept())
        if name == "dynamicvit":
            model, template = self._traced(name, lambda: redrawn(rival.pruned))
            binding = binding_of(model, "scatter", batch, kept)
        else:
            module = _GRAPHS[name](rival, batch).eval()
            images = images_of(self.checkpoint, batch)
            graph = export_graph(_Named(module), (images,), ["images"], "logits")
            template = tidy(graph, self.folder, "logits")
            binding = binding_of(self.checkpoint.model, DENSE, batch)
        onnx.save(bind(template, binding, _metadata(name)), path)
        return {"kept": kept, **({"merges": rival.merges} if name == "tome" else {"rate": rival.rate})}

    def _traced(self, key: str, make_model: Callable[[], ToFe]) -> tuple[ToFe, Template]:
        if key not in self._traces:
            model = make_model()
            self._traces[key] = model, trace(model, self.folder)
        return self._traces[key]


_AT_MACS: dict[str, Callable[..., Any]] = {
    "dynamicvit": dynamicvit.at_macs,
    "evit": evit.at_macs,
    "tome": tome.at_macs,
    "idlevit": idlevit.at_macs,
}
_GRAPHS: dict[str, Callable[..., nn.Module]] = {
    "evit": evit.EViTGraph,
    "tome": tome.ToMeGraph,
    "idlevit": idlevit.IdleViTGraph,
}


class _Named(nn.Module):
    """Puts a module under the name `model`, as in our own traces: nodes and weights are named after it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        return logits


def export_plain(model: nn.Module, images: Tensor, path: Path) -> None:
    """What anybody would do: `torch.onnx.export` with its defaults."""
    with torch.no_grad():
        exported = torch.onnx.export(
            model.eval(),
            (images,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
    assert exported is not None  # only the deprecated exporter returns None
    exported.save(path, external_data=True)


def executed_gmacs(path: Path, batch: int) -> float:
    """MACs per image of a file, from its nodes and inferred shapes."""
    model = onnx.load(path, load_external_data=False)
    return count_macs(onnx.shape_inference.infer_shapes(model, data_prop=True), batch) / 1e9


def binding_of(model: ToFe, lowering: str, batch: int, keep: tuple[int, ...] = ()) -> Binding:
    """What turns a trace of `model` into one graph."""
    return Binding(
        lowering=lowering,
        tokens=model.backbone.tokens,
        prefix=model.backbone.prefix,
        keep=keep,
        batch=batch,
        reuse=model.structure.reuse,
        stages=model.stages,
    )


def _metadata(name: str) -> dict[str, str]:
    return {"tofe.variant": name}
