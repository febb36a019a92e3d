"""Tiny models, each traced once per session when its first test asks for it, and a bundle made of one.

A trace costs seconds even for a tiny model.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import nn

from tofe_export.bundle import Bundle
from tofe_export.graph import export as module
from tofe_export.graph.bind import Binding, bind
from tofe_export.graph.export import Pictures, export
from tofe_export.graph.request import Request
from tofe_export.graph.trace import Template, trace
from tofe_export.model.approximator import BottleneckApproximator
from tofe_export.model.backbone import create_backbone
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.model.freezer import ForcedFreezer
from tofe_export.model.references import Answers, adaptive_answers, dense_answers, static_answers
from tofe_export.model.tofe import Structure, ToFe

Array = npt.NDArray[Any]
Free = Any  # whatever a binding takes

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
    "deit": Recipe(arguments={"embed_dim": 192}),  # its budgets have two decimals
    "registers": Recipe(
        "vit_small_patch14_reg4_dinov2",
        {"img_size": (56, 84), "init_values": 0.3},  # trained LayerScales do not vanish in half precision
        {"approximator": "depthwise"},
        output="tokens",
    ),
    "siglip": Recipe("vit_base_patch16_siglip_224", {"num_classes": 0}, {"approximator": "block"}),
    "lvvit": Recipe("lvvit_s", structure={"selector": "dynamicvit"}),
    "conditioned": Recipe(arguments={"embed_dim": 528}, structure={"conditioned": True}),  # biases above 1 kB
    "conditioned-lvvit": Recipe("lvvit_s", structure={"selector": "dynamicvit", "conditioned": True}),
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
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(layer.weight, std=layer.weight[0].numel() ** -0.5)
    for approximator in model.approximators:
        if isinstance(approximator, BottleneckApproximator):
            nn.init.normal_(approximator.fc2.bias, std=0.3)
    for name, parameter in model.named_parameters():
        if name.endswith(".condition"):
            nn.init.normal_(parameter)
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


@pytest.fixture(scope="session")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Traced]:
    """A traced tiny model by the name of its recipe."""
    made: dict[str, Traced] = {}

    def get(name: str) -> Traced:
        if name not in made:
            made[name] = Traced(RECIPES[name], tmp_path_factory.mktemp(name))
        return made[name]

    return get


FULL = Request(
    keep=(7, 5, 3), budgets=(0.021,), lowerings=("scatter", "concat", "adaptive"), batches=(1, 2, "dyn")
)


@pytest.fixture(scope="session")
def checkpoint(traced: Callable[[str], Traced]) -> Checkpoint:
    model = traced("deit").model
    return Checkpoint(
        model, model.backbone.preprocessing(), tuple("abcdefghij"), trained=True, sha256="c" * 64
    )


def some_pictures(seed: int = 0) -> Pictures:
    random = np.random.RandomState(seed)
    sizes = ((80, 100), (90, 70), (64, 64))
    return Pictures([random.randint(0, 256, (*size, 3)).astype(np.uint8) for size in sizes], "three pictures")


@pytest.fixture(scope="session")
def original(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Every lowering and batch; do not change it."""
    return export(checkpoint, FULL, tmp_path_factory.mktemp("made") / "bundle", some_pictures())


@pytest.fixture
def bundle(original: Bundle, tmp_path: Path) -> Bundle:
    """A copy to change."""
    shutil.copytree(original.path, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


@pytest.fixture
def quick(traced: Callable[[str], Traced], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace at no cost: the session's template, its weights copied.

    On the test's own `monkeypatch`, so that a test which patches `trace` again is undone in the right order.
    """
    case = traced("deit")

    def copy(model: ToFe, folder: Path, output: str, frames: object = None) -> Template:
        assert model is case.model
        assert (output, frames) == ("head", None)
        shutil.copyfile(case.folder / case.template.weights_file, folder / case.template.weights_file)
        template: Template = case.template
        return template

    monkeypatch.setattr(module, "trace", copy)


@pytest.fixture(scope="session")
def pictures() -> Callable[..., Pictures]:
    """Three pictures, by a seed; 0 are those of the bundle."""
    return some_pictures


def export_traced(case: Free, folder: Path, pictures: Free, request: Request, model: Free = None) -> Bundle:
    """A bundle of a traced model, by its own template; of a `model` with other weights by a new trace."""
    classes = tuple("abcdefghij") if case.model.backbone.num_classes else None
    preprocessing = case.model.backbone.preprocessing()
    checkpoint = Checkpoint(model or case.model, preprocessing, classes, trained=True, sha256="c" * 64)

    def copy(_: object, target: Path, output: str, frames: object = None) -> object:
        assert frames is None
        shutil.copyfile(case.folder / case.template.weights_file, target / case.template.weights_file)
        return case.template

    with pytest.MonkeyPatch.context() as patch:
        if model is None:
            patch.setattr(module, "trace", copy)
        return export(checkpoint, request, folder, pictures)


@pytest.fixture(scope="session")
def exported() -> Callable[..., Bundle]:
    """Export a traced model: (case, folder, pictures, request, another model of the same structure)."""
    return export_traced
