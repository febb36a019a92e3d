"""Two kinds of templates: tiny models, traced once per session, and toys, made by hand in no time.

A trace costs seconds even for a tiny model, so every structure is traced when its first test asks for it and
kept for the session. A toy has the stages of a ToFe model and blocks that treat each row by itself: any row
that is lost, doubled or put in a wrong place shows in its output.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import pytest
import torch
from torch import nn

from tofe_export.graph.bind import Binding, bind
from tofe_export.graph.trace import Template, trace
from tofe_export.model.approximator import BottleneckApproximator
from tofe_export.model.backbone import create_backbone
from tofe_export.model.freezer import ForcedFreezer, Freezer, Split, StaticFreezer
from tofe_export.model.references import Answers, adaptive_answers, dense_answers, static_answers
from tofe_export.model.tofe import Structure, ToFe

Array = npt.NDArray[Any]
Free = Any  # whatever a node or a binding takes

TINY: dict[str, Any] = {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3, "num_classes": 10}


@dataclass(frozen=True)
class Recipe:
    """What to build and trace; `keep` fits 16 to 24 tokens."""

    backbone: str = "deit_tiny_patch16_224"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    structure: Mapping[str, Any] = field(default_factory=dict)
    output: str = "head"
    keep: tuple[int, ...] = (7, 5, 3)
    tied: bool = False  # all selectors zero: every score is the same


RECIPES = {
    "deit": Recipe(),
    "registers": Recipe(
        "vit_small_patch14_reg4_dinov2",
        {"img_size": (56, 84)},
        {"approximator": "depthwise"},
        output="tokens",
    ),
    "siglip": Recipe("vit_base_patch16_siglip_224", {"num_classes": 0}, {"approximator": "block"}),
    "lvvit": Recipe("lvvit_s", structure={"selector": "dynamicvit"}),
    "no-reuse": Recipe(structure={"selector": "dynamicvit", "reuse": False}, output="tokens", keep=(9, 9, 4)),
    "four-tied": Recipe(
        arguments={"depth": 5, "global_pool": "avg"},
        structure={"locations": (0, 1, 2, 4)},
        keep=(9, 6, 3, 2),
        tied=True,
    ),
}


def build(recipe: Recipe) -> ToFe:
    """The model of a recipe, with weights that make scores vary and approximators matter."""
    torch.manual_seed(0)
    backbone = create_backbone(recipe.backbone, TINY | dict(recipe.arguments))
    model = ToFe(backbone, Structure(**({"locations": backbone.locations} | dict(recipe.structure)))).eval()
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    for approximator in model.approximators:
        if isinstance(approximator, BottleneckApproximator):
            nn.init.normal_(approximator.fc2.bias, std=0.3)
    if recipe.tied:
        for parameter in model.selectors.parameters():
            nn.init.zeros_(parameter)
    return model


@contextlib.contextmanager
def _listening(heard: list[str]) -> Iterator[None]:
    """Note every warning that is logged; keep torch's own records, thousands per trace, from pytest."""
    handler, root, chatter = (
        logging.Handler(logging.WARNING),
        logging.getLogger(),
        logging.getLogger("torch.__trace"),
    )
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    root.addHandler(handler)
    chatter.propagate = False
    try:
        yield
    finally:
        root.removeHandler(handler)
        chatter.propagate = True


class Traced:
    """A traced tiny model with PyTorch's answers on four images."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder, self.keep = recipe, folder, recipe.keep
        self.model = build(recipe)
        self.warnings: list[str] = []
        with _listening(self.warnings):
            self.template = trace(self.model, folder, recipe.output)
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(4, 3, *self.model.backbone.image_size, generator=generator).numpy()

    @property
    def tokens(self) -> int:
        return self.model.backbone.tokens

    @functools.cache  # noqa: B019 - cases live as long as the session
    def static(self, keep: tuple[int, ...] | None = None) -> Answers:
        return static_answers(self.model, self.images, keep or self.keep, self.recipe.output, lambda n: None)

    def adaptive(self, thresholds: Sequence[float]) -> Answers:
        return adaptive_answers(self.model, self.images, thresholds, self.recipe.output, lambda n: None)

    @functools.cache  # noqa: B019 - as above
    def dense(self) -> Answers:
        return dense_answers(self.model, self.images, self.recipe.output, lambda n: None)

    @cached_property
    def thresholds(self) -> tuple[float, ...]:
        """Per stage a threshold in the widest gap around the median of the scores."""
        scores, found = self.static().scores, []
        assert scores is not None
        for stage in range(self.model.stages):
            here = np.sort(scores[:, stage][~np.isnan(scores[:, stage])])
            middle = here[len(here) // 3 : 2 * len(here) // 3]
            at = int(np.diff(middle).argmax())
            found.append(float(middle[at] + middle[at + 1]) / 2)
        return tuple(found)

    @cached_property
    def forced(self) -> Array:
        """PyTorch's output under `random_sets`."""
        masks = self.random_sets
        relative = [torch.from_numpy(masks[:, 0])]
        for before, mask in itertools.pairwise(masks.transpose(1, 0, 2)):
            survivors = (
                mask
                if self.model.structure.reuse
                else np.stack([m[b] for m, b in zip(mask, before, strict=True)])
            )
            relative.append(torch.from_numpy(survivors))
        with torch.inference_mode():
            output = self.model(torch.from_numpy(self.images), ForcedFreezer(relative), self.recipe.output)
        return cast(Array, output.numpy())

    @cached_property
    def random_sets(self) -> npt.NDArray[np.bool_]:
        """Masks (n, S, N) that the model could have chosen."""
        random = np.random.RandomState(3)
        masks = np.zeros((len(self.images), len(self.keep), self.tokens), np.bool_)
        for image, (stage, count) in itertools.product(range(len(self.images)), enumerate(self.keep)):
            pool = np.arange(self.tokens)
            if stage and not self.model.structure.reuse:
                pool = np.flatnonzero(masks[image, stage - 1])
            masks[image, stage, random.permutation(pool)[:count]] = True
        return masks

    def bind(self, lowering: str, batch: int | None = 1, **changes: Free) -> onnx.ModelProto:
        backbone = self.model.backbone
        binding: dict[str, Any] = {
            "tokens": backbone.tokens,
            "prefix": backbone.prefix,
            "keep": self.keep,
            "thresholds": self.thresholds if lowering == "adaptive" else (),
            "reuse": self.model.structure.reuse,
            "stages": self.model.stages,
        }
        return bind(
            self.template,
            Binding(lowering=lowering, batch=batch, **(binding | changes)),
            {"tofe.variant": "test"},
        )


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
            scored = self._emit(
                "MatMul", f"score{stage}", self._patches(x, f"s{stage}"), self.selectors[stage]
            )
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
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Traced]:
    """A traced tiny model by the name of its recipe."""
    made: dict[str, Traced] = {}

    def get(name: str) -> Traced:
        if name not in made:
            made[name] = Traced(RECIPES[name], tmp_path_factory.mktemp(name))
        return made[name]

    return get


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
