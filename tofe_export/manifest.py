"""The manifest: what a bundle holds, as typed values.

`manifest.json` is the one file that says which graphs belong together, what they cost, and the hash of
every byte they need; engines are not in it, because they belong to a machine and not to the model. Reading
is strict (a wrong type or an unknown key is an error that names its place), so a bundle that opens is
complete in form; `Bundle.check` then proves the files. A reader refuses a newer schema rather than guess at
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tofe_export.budget import Cost
from tofe_export.errors import BundleError
from tofe_export.fields import Fields
from tofe_export.preprocess import Preprocessing

SCHEMA_VERSION = 1
LOWERINGS = ("scatter", "concat", "adaptive", "dense")
OUTPUTS = ("logits", "features", "tokens")
INPUTS = ("float32", "uint8")
DYNAMIC = "dyn"

Batch = int | Literal["dyn"]


@dataclass(frozen=True)
class Model:
    """The model all variants come from."""

    backbone: str  # timm's name
    arguments: Mapping[str, Any]  # what timm.create_model was given besides the name
    checkpoint_sha256: str
    trained: bool  # False: selectors and approximators are random, the answers mean nothing
    selector: str
    approximator: str
    reuse: bool
    locations: tuple[int, ...]
    tokens: int  # N
    prefix: int  # P
    grid: tuple[int, int]  # patches: rows, columns
    num_classes: int
    output: str  # one of OUTPUTS, also the name of the graphs' output
    input: str = "float32"  # one of INPUTS: normalised (B, 3, H, W), or frames (B, H, W, 3)

    @property
    def takes_frames(self) -> bool:
        """Whether the graphs normalise by themselves, and take uint8 (B, H, W, 3)."""
        return self.input == "uint8"

    @classmethod
    def read(cls, data: Fields) -> Model:
        """Check and build. Raises ValueError."""
        grid = data.integers("grid")
        if len(grid) != 2:
            raise ValueError(f"{data.place('grid')}: expected [rows, columns], found {list(grid)}")
        model = cls(
            backbone=data.text("backbone"),
            arguments=data.mapping("arguments"),
            checkpoint_sha256=data.text("checkpoint_sha256"),
            trained=data.flag("trained"),
            selector=data.text("selector"),
            approximator=data.text("approximator"),
            reuse=data.flag("reuse"),
            locations=data.integers("locations"),
            tokens=data.integer("tokens", least=1),
            prefix=data.integer("prefix"),
            grid=(grid[0], grid[1]),
            num_classes=data.integer("num_classes"),
            output=data.text("output", OUTPUTS),
            input=data.text("input", INPUTS) if data.has("input") else "float32",  # older ones have none
        )
        data.done()
        return model


@dataclass(frozen=True)
class ReferenceInfo:
    """Where the reference data is and what it was made of."""

    file: str
    sha256: str
    images_sha256: str
    source: str  # the image folder, or "built-in images"
    count: int

    @classmethod
    def read(cls, data: Fields) -> ReferenceInfo:
        """Check and build. Raises ValueError."""
        info = cls(
            file=data.text("file"),
            sha256=data.text("sha256"),
            images_sha256=data.text("images_sha256"),
            source=data.text("source"),
            count=data.integer("count", least=1),
        )
        data.done()
        return info


@dataclass(frozen=True)
class File:
    """A file of the bundle and its hash; the path is relative to the bundle."""

    file: str
    sha256: str

    @classmethod
    def read(cls, data: Fields) -> File:
        """Check and build. Raises ValueError."""
        file = cls(data.text("file"), data.text("sha256"))
        data.done()
        return file


@dataclass(frozen=True)
class WeightsFile:
    """Weights that graphs share as external data; named by their hash and never changed."""

    file: str
    sha256: str
    bytes: int

    @classmethod
    def read(cls, data: Fields) -> WeightsFile:
        """Check and build. Raises ValueError."""
        weights = cls(data.text("file"), data.text("sha256"), data.integer("bytes"))
        data.done()
        return weights


@dataclass(frozen=True)
class Variant:
    """One bound, lowered, typed graph. `extra` keeps keys that only some precisions have."""

    name: str
    file: str
    sha256: str
    probe: File | None  # None for dense variants
    budget_gmacs: float | None  # None for dense variants
    gmacs: float  # the paper's account, which budgets use
    gmacs_executed: float  # what the lowering runs
    keep: tuple[int, ...] | None  # K_1..K_S; None for dense variants
    thresholds: tuple[float, ...] | None  # adaptive variants only
    source: str  # where the keep counts come from
    lowering: str
    precision: str
    batch: Batch
    opset: int
    targets: tuple[str, ...]  # TensorRT versions it is meant for
    reference: str  # key in the reference
    rounding: float = 0.0  # of PyTorch's own float32 answers against float64, as a fraction of the range
    weights: tuple[str, ...] = ()  # the files of Manifest.weights its graphs read; empty: any of them
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dense(self) -> bool:
        """Whether this is the model without token reduction."""
        return self.lowering == "dense"

    @classmethod
    def read(cls, data: Fields) -> Variant:
        """Check and build. Raises ValueError."""
        return cls(
            name=data.text("name"),
            file=data.text("file"),
            sha256=data.text("sha256"),
            probe=data.optional("probe", lambda key: File.read(data.child(key))),
            budget_gmacs=data.optional("budget_gmacs", data.number),
            gmacs=data.number("gmacs"),
            gmacs_executed=data.number("gmacs_executed"),
            keep=data.optional("keep", data.integers),
            thresholds=data.optional("thresholds", data.numbers),
            source=data.text("source"),
            lowering=data.text("lowering", LOWERINGS),
            precision=data.text("precision"),
            batch="dyn" if data.get("batch") == DYNAMIC else data.integer("batch", least=1),
            opset=data.integer("opset", least=1),
            targets=data.texts("targets"),
            reference=data.text("reference"),
            rounding=data.number("rounding"),
            weights=data.texts("weights"),
            extra=data.rest(),
        )


@dataclass(frozen=True)
class Manifest:
    """The whole file. `created` is ISO 8601 in UTC; `classes` are the names of the outputs, in order."""

    tool_version: str
    created: str
    model: Model
    cost: Cost
    preprocessing: Preprocessing
    classes: tuple[str, ...] | None
    reference: ReferenceInfo
    weights: tuple[WeightsFile, ...]
    variants: tuple[Variant, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image as the graphs take it: (3, H, W), or (H, W, 3) where they take frames."""
        height, width = self.preprocessing.size
        return (height, width, 3) if self.model.takes_frames else (3, height, width)

    def files(self) -> dict[str, str]:
        """Every file the manifest names, relative to the bundle, with its hash."""
        named: list[File | ReferenceInfo | WeightsFile | Variant] = [self.reference, *self.weights]
        for variant in self.variants:
            named += [variant, variant.probe] if variant.probe else [variant]
        return {item.file: item.sha256 for item in named}

    def to_json(self) -> dict[str, Any]:
        """What `manifest.json` holds."""
        return {
            "schema_version": SCHEMA_VERSION,
            "tool": {"name": "tofe-export", "version": self.tool_version},
            "created": self.created,
            "model": _plain(self.model),
            "cost": self.cost.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "classes": _plain(self.classes),
            "reference": _plain(self.reference),
            "weights": _plain(self.weights),
            "variants": [_variant_json(variant) for variant in self.variants],
        }

    @classmethod
    def from_json(cls, data: object) -> Manifest:
        """Check and build. Raises BundleError: a newer schema, or the place, what was expected and found."""
        try:
            return _read_manifest(Fields(data, ""))
        except ValueError as error:
            raise BundleError(
                f"manifest.json is damaged: {error}. Copy the bundle again or export again"
            ) from error


def _read_manifest(data: Fields) -> Manifest:
    schema = data.integer("schema_version", least=1)
    if schema > SCHEMA_VERSION:
        raise BundleError(
            f"the bundle has schema version {schema}, this tofe-export reads up to {SCHEMA_VERSION}: "
            "upgrade tofe-export (pip install --upgrade tofe-export)"
        )
    tool = data.child("tool")
    tool.text("name", ("tofe-export",))
    manifest = Manifest(
        tool_version=tool.text("version"),
        created=data.text("created"),
        model=Model.read(data.child("model")),
        cost=Cost.from_json(data.get("cost")),
        preprocessing=Preprocessing.from_json(data.get("preprocessing")),
        classes=data.optional("classes", data.texts),
        reference=ReferenceInfo.read(data.child("reference")),
        weights=tuple(WeightsFile.read(item) for item in data.children("weights")),
        variants=tuple(Variant.read(item) for item in data.children("variants")),
    )
    tool.done()
    data.done()
    _check_names(manifest)
    return manifest


def _check_names(manifest: Manifest) -> None:
    listed = {weights.file for weights in manifest.weights}
    for variant in manifest.variants:
        if unlisted := set(variant.weights) - listed:
            raise ValueError(f"variant {variant.name}: weights {', '.join(sorted(unlisted))} are not listed")
    names = [variant.name for variant in manifest.variants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"variants: expected unique names, found {', '.join(twice)} more than once")


def _plain(value: Any) -> Any:  # noqa: ANN401 - JSON has no better type
    """Dataclasses to dictionaries and tuples to lists, all the way down."""
    if hasattr(value, "__dataclass_fields__"):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _variant_json(variant: Variant) -> dict[str, Any]:
    data: dict[str, Any] = _plain(variant)
    extra: dict[str, Any] = data.pop("extra")
    return data | extra
