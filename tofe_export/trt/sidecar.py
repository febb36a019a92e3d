"""The sidecar: what a plan was made of, by whom and for which device, as JSON beside it.

A plan is opaque and belongs to one TensorRT on one kind of GPU. The sidecar lets every question about it be
answered without TensorRT, and lets a plan that does not belong here be refused with a reason. It is written
after the plan and holds its hash: a plan without a fitting sidecar is not an engine of ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tofe_export.errors import BundleError, MissingBackend
from tofe_export.fields import Fields
from tofe_export.manifest import DYNAMIC, Batch, File
from tofe_export.trt.compat import parse_version
from tofe_export.trt.device import Device
from tofe_export.trt.inspect import VERDICTS, Layers
from tofe_export.trt.request import BuildOptions

SCHEMA_VERSION = 1
TYPINGS = ("strong", "weak", "float32")


@dataclass(frozen=True)
class Sidecar:
    """The facts of one engine."""

    tool_version: str
    created: str  # ISO 8601, UTC
    plan: str  # file name, in the same folder
    plan_bytes: int
    plan_sha256: str
    plan_version: tuple[int, ...]  # as the plan's header says; empty: no header of that kind
    variant: str
    probe: bool
    graph: File  # what was parsed
    twin: str | None  # the float32 variant that `graph` belongs to (8.6)
    precision: str
    typing: str  # one of TYPINGS
    batch: Batch
    tensorrt: str
    device: Device
    options: BuildOptions
    flags: tuple[str, ...]
    seconds: float  # parsing to plan
    verdict: str  # one of inspect.VERDICTS
    network: Mapping[str, int]  # layers of the parsed network per type
    layers: Layers  # layers of the engine per precision
    held_float32: int  # layers held by name (8.6)
    timing_cache: str  # "used", "empty" or "of another device, not used"

    def to_json(self) -> dict[str, Any]:
        """What the file holds."""
        data = asdict(self)
        return {"schema_version": SCHEMA_VERSION, **data}

    @classmethod
    def from_json(cls, data: object) -> Sidecar:
        """Check and build. Raises BundleError: a newer schema, or the place, what was expected and found."""
        try:
            return _read(Fields(data, ""))
        except ValueError as error:
            raise BundleError(f"the sidecar is damaged: {error}. Run: tofe-export trt --force") from error

    @classmethod
    def load(cls, path: Path) -> Sidecar:
        """Read a file. Raises BundleError that names it."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            reason = str(error)
        except BundleError as error:
            reason = str(error)
        raise BundleError(f"{path}: {reason}")


def _read(data: Fields) -> Sidecar:
    schema = data.integer("schema_version", least=1)
    if schema > SCHEMA_VERSION:
        raise BundleError(
            f"the sidecar has schema version {schema}, this tofe-export reads up to {SCHEMA_VERSION}: "
            "upgrade tofe-export, or build again: tofe-export trt --force"
        )
    network = data.mapping("network")
    if not all(isinstance(value, int) for value in network.values()):
        raise ValueError(f"{data.place('network')}: expected numbers of layers")
    sidecar = Sidecar(
        tool_version=data.text("tool_version"),
        created=data.text("created"),
        plan=data.text("plan"),
        plan_bytes=data.integer("plan_bytes"),
        plan_sha256=data.text("plan_sha256"),
        plan_version=data.integers("plan_version"),
        variant=data.text("variant"),
        probe=data.flag("probe"),
        graph=File.read(data.child("graph")),
        twin=data.optional("twin", data.text),
        precision=data.text("precision"),
        typing=data.text("typing", TYPINGS),
        batch="dyn" if data.get("batch") == DYNAMIC else data.integer("batch", least=1),
        tensorrt=_read_version(data),
        device=Device.read(data.child("device")),
        options=_read_options(data.child("options")),
        flags=data.texts("flags"),
        seconds=data.number("seconds"),
        verdict=data.text("verdict", VERDICTS),
        network=network,
        layers=Layers.read(data.child("layers")),
        held_float32=data.integer("held_float32"),
        timing_cache=data.text("timing_cache"),
    )
    data.done()
    return sidecar


def _read_version(data: Fields) -> str:
    """TensorRT's version as it calls itself."""
    text = data.text("tensorrt")
    try:
        parse_version(text)
    except MissingBackend as error:  # of a module it would be a broken installation, here it is a broken file
        raise ValueError(f"{data.place('tensorrt')}: expected a version, found {text!r}") from error
    return text


def _read_options(data: Fields) -> BuildOptions:
    profile = data.optional("profile", data.integers)
    if profile is not None and len(profile) != 3:
        raise ValueError(f"{data.place('profile')}: expected three batches, found {list(profile)}")
    options = BuildOptions(
        workspace_mib=data.optional("workspace_mib", data.integer),
        opt_level=data.optional("opt_level", data.integer),
        profile=None if profile is None else (profile[0], profile[1], profile[2]),
        version_compatible=data.flag("version_compatible"),
    )
    data.done()
    return options
