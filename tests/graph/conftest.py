"""Toys: templates made by hand in no time, with the stages of a ToFe model.

Their blocks treat each row by itself, so any row that is lost, doubled or put in a wrong place shows in the
output. What needs a real trace, which costs seconds, is in `traced/`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch

from tofe_export.graph.bind import Binding, bind
from tofe_export.graph.trace import Template
from tofe_export.model.freezer import Freezer, Split, StaticFreezer

Array = npt.NDArray[Any]
Free = Any  # whatever a node or a binding takes


class Toy:
    """A template made by hand, whose input `images` are the tokens (B, P + N, D) themselves."""

    def __init__(
        self,
        stages: int = 2,
        *,
        tokens: int = 7,
        prefix: int = 1,
        reuse: bool = True,
        every_row: bool = False,
        output: str = "logits",
        tied: Sequence[int] = (),
    ) -> None:
        self.stages, self.tokens, self.prefix, self.width = stages, tokens, prefix, 4
        self.reuse, self.every_row, self.output = reuse, every_row, output
        random = np.random.RandomState(stages)
        self.selectors = random.standard_normal((stages, self.width, 1)).astype(np.float32)
        self.selectors[list(tied)] = 0
        self.blocks = random.standard_normal((stages, 2, self.width)).astype(np.float32)
        self.approximators = random.standard_normal((stages, self.width)).astype(np.float32)
        self.images = random.standard_normal((3, prefix + tokens, self.width)).astype(np.float32)

    def answer(self, freezer: Freezer) -> tuple[Array, list[Array]]:
        """Output and kept spatial ids per stage (n, K), by the same freezers as the model's."""
        x = torch.from_numpy(self.images)
        ids = torch.arange(self.tokens).expand(len(x), -1)
        kept, splits = [], []
        for stage in range(self.stages):
            scores = (x[:, self.prefix :] @ torch.from_numpy(self.selectors[stage])).squeeze(-1)
            split = freezer.freeze(x, scores, stage)
            kept.append(ids.gather(1, split.order[:, : split.kept.shape[1] - self.prefix]))
            ids = ids if self.reuse else kept[-1]
            scale, shift = torch.from_numpy(self.blocks[stage])
            entry, x = x, split.kept * scale + shift
            if self.reuse and stage < self.stages - 1:
                factor = torch.from_numpy(self.approximators[stage])
                rows = entry[:, self.prefix :] if self.every_row else split.frozen
                x = freezer.thaw(x, rows * factor, split, every_row=self.every_row)
            else:
                splits.append(split)
        return self._end(x, freezer, splits).numpy(), [k.numpy() for k in kept]

    def _end(self, x: torch.Tensor, freezer: Freezer, splits: Sequence[Split]) -> torch.Tensor:
        if self.output != "tokens":
            return x.mean(dim=1)
        for split in reversed(splits):
            x = freezer.thaw(x, split.frozen, split, every_row=False)
        return x[:, self.prefix :]

    def graph(self) -> gs.Graph:
        return gs.import_onnx(self.template().model)

    def template(self) -> Template:
        self._nodes: list[gs.Node] = []
        images = gs.Variable("images", np.float32, ["s0", self.prefix + self.tokens, self.width])
        x, splits = images, []
        for stage in range(self.stages):
            size: int | str = f"u{stage}"
            patches, weight = self._patches(x, f"s{stage}"), self.selectors[stage]
            columns = [*patches.shape[:2], weight.shape[-1]]
            scored = self._emit("MatMul", f"score{stage}", patches, weight, shape=columns)
            axes = np.array([2], np.int64)
            scores = self._emit(
                "Squeeze",
                f"squeeze{stage}",
                scored,
                axes,
                shape=["s0", x.shape[1] if not self.prefix else f"{x.shape[1]} - {self.prefix}"],
            )
            kept, frozen, order = (
                gs.Variable(f"kept{stage}", np.float32, ["s0", size, self.width]),
                gs.Variable(f"frozen{stage}", np.float32, ["s0", f"f{stage}", self.width]),
                gs.Variable(f"order{stage}", np.int64, list(scores.shape)),
            )
            attributes = {"stage": stage, "prefix": self.prefix}
            self._nodes.append(
                gs.Node(
                    "Freeze", f"freeze{stage}", attributes, [x, scores], [kept, frozen, order], domain="tofe"
                )
            )
            scale, shift = self.blocks[stage]
            entry, x = (
                x,
                self._emit("Add", f"shift{stage}", self._emit("Mul", f"scale{stage}", kept, scale), shift),
            )
            if self.reuse and stage < self.stages - 1:
                rows = self._patches(entry, f"a{stage}") if self.every_row else frozen
                rows = self._emit("Mul", f"approximators.{stage}/Mul", rows, self.approximators[stage])
                x = self._thaw(x, rows, order, stage, entry.shape, every_row=int(self.every_row))
            else:
                splits.append((frozen, order, stage, entry.shape))
        if self.output == "tokens":
            for frozen, order, stage, shape in reversed(splits):
                x = self._thaw(x, frozen, order, stage, shape, every_row=0)
            x = self._emit("Restore", "restore", x, domain="tofe", prefix=self.prefix)
            x = self._emit("Identity", "end", self._patches(x, "end"))
        else:
            axes = np.array([1], np.int64)
            x = self._emit("ReduceMean", "mean", x, axes, keepdims=0, shape=["s0", self.width])
        x.name = self.output
        domains = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("tofe", 1)]
        graph = gs.Graph(self._nodes, [images], [x], opset=18, import_domains=domains, name="toy")
        model = gs.export_onnx(graph, do_type_check=False)
        return Template(model, "none.bin", "0" * 64, 0, "s0", self.output)

    def _patches(self, x: gs.Variable, name: str) -> gs.Variable:
        """All rows but the prefix, by a Slice with INT64 parameters, as the exporter writes it."""
        if not self.prefix:
            return x
        ends = [np.array([v], np.int64) for v in (self.prefix, np.iinfo(np.int64).max, 1, 1)]
        size = x.shape[1] - self.prefix if isinstance(x.shape[1], int) else f"{x.shape[1]} - {self.prefix}"
        return self._emit("Slice", f"{name}/patches", x, *ends, shape=[x.shape[0], size, x.shape[2]])

    def _thaw(
        self, x: gs.Variable, rows: gs.Variable, order: gs.Variable, stage: int, shape: Free, **attrs: int
    ) -> gs.Variable:
        return self._emit(
            "Thaw",
            f"thaw{stage}",
            x,
            rows,
            order,
            domain="tofe",
            shape=shape,
            stage=stage,
            prefix=self.prefix,
            **attrs,
        )

    def _emit(
        self,
        op: str,
        name: str,
        x: gs.Variable,
        *inputs: Free,
        domain: str | None = None,
        shape: Free = None,
        **attrs: Free,
    ) -> gs.Variable:
        """A node whose output has the shape of x unless one is given."""
        constants = [
            gs.Constant(f"{name}:{i}", v) if isinstance(v, np.ndarray) else v for i, v in enumerate(inputs)
        ]
        out = gs.Variable(f"{name}:out", np.float32, list(shape or x.shape))
        self._nodes.append(gs.Node(op, name, attrs, [x, *constants], [out], domain=domain))
        return out

    def bind(
        self, lowering: str, keep: Sequence[int] = (), batch: int | None = 1, **changes: Free
    ) -> onnx.ModelProto:
        binding: dict[str, Any] = {
            "tokens": self.tokens,
            "prefix": self.prefix,
            "keep": tuple(keep),
            "reuse": self.reuse,
            "stages": self.stages,
        }
        return bind(self.template(), Binding(lowering=lowering, batch=batch, **(binding | changes)), {})


def execute(
    model: onnx.ModelProto, feeds: Mapping[str, Array], folder: Path | None = None
) -> dict[str, Array]:
    """Run a model in ONNX Runtime; `folder` is where its weights lie."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    source: bytes | str = model.SerializeToString()
    if folder is not None:
        (folder / "model.onnx").write_bytes(cast(bytes, source))
        source = str(folder / "model.onnx")
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, dict(feeds)), strict=True))


@pytest.fixture(scope="session")
def toy() -> type[Toy]:
    """Make a toy template."""
    return Toy


@pytest.fixture(scope="session")
def infer() -> Callable[..., dict[str, Array]]:
    """Run a model in ONNX Runtime."""
    return execute


@pytest.fixture(scope="session")
def static() -> type[StaticFreezer]:
    """The reference's way to keep fixed counts."""
    return StaticFreezer
