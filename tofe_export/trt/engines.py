"""Engines in a bundle: writing them, finding the one for this device, and refusing the others with reasons.

    BUNDLE/engines/NAME.<gpu>.<tensorrt>.plan      the plan, nothing in front of it
    BUNDLE/engines/NAME.<gpu>.<tensorrt>.json      its sidecar, written last

Engines are not in the manifest, because a bundle may be shared by many devices. Nothing here needs TensorRT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, MissingBackend
from tofe_export.files import sha256_bytes, write_atomic, writing
from tofe_export.manifest import File, Variant
from tofe_export.trt.compat import Features, parse_version
from tofe_export.trt.device import Device
from tofe_export.trt.plan import FOLDER, HEADER_BYTES, plan_version
from tofe_export.trt.sidecar import Sidecar

AGAIN = "build it again here: tofe-export trt"


@dataclass(frozen=True)
class Built:
    """A plan that was just built, not yet on the disk."""

    plan: bytes
    sidecar: Sidecar


@dataclass(frozen=True)
class EngineFile:
    """A plan on the disk and its sidecar."""

    path: Path
    sidecar: Sidecar

    def load(self) -> bytes:
        """The plan's bytes, proven. Raises BundleError: gone, truncated, changed, or not a plan."""
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise BundleError(f"{self.path}: {error.strerror or error}: {AGAIN}") from error
        if reason := plan_fault(data, self.sidecar):
            raise BundleError(f"{self.path}: {reason}: {AGAIN} --force")
        return data


def write_engine(bundle: Bundle, built: Built) -> EngineFile:
    """Put plan and sidecar into the bundle, each at once, the sidecar last. Raises WriteError."""
    path = bundle.path / FOLDER / built.sidecar.plan
    with writing(path):
        path.parent.mkdir(exist_ok=True)
    write_atomic(path, built.plan)
    text = json.dumps(built.sidecar.to_json(), indent=2, allow_nan=False) + "\n"
    write_atomic(path.with_suffix(".json"), text.encode())
    return EngineFile(path, built.sidecar)


def plan_fault(data: bytes, sidecar: Sidecar) -> str | None:
    """Why these bytes are not the sidecar's plan, or None."""
    if len(data) != sidecar.plan_bytes:
        what = "is truncated" if len(data) < sidecar.plan_bytes else "was changed"
        return f"expected {sidecar.plan_bytes} bytes, found {len(data)}: the plan {what}"
    if sidecar.plan_version and plan_version(data[:HEADER_BYTES]) is None:
        return "expected a TensorRT plan, found something else"
    if sha256_bytes(data) != sidecar.plan_sha256:
        return f"expected sha256 {sidecar.plan_sha256}, found another: the plan was changed"
    return None


def check_engine(engine: EngineFile, bundle: Bundle, device: Device, features: Features) -> str | None:
    """Why an engine cannot be used here, from its sidecar alone; None if it can.

    The plan's bytes are proven by `EngineFile.load`. Raises VariantError: an engine of no variant here.
    """
    sidecar = engine.sidecar
    if reason := _other_tensorrt(sidecar, features):
        return reason
    built_on = sidecar.device
    if not built_on.same_kind(device):
        return (
            f"it was built on {built_on.name} (compute capability {built_on.compute_capability}), this is "
            f"{device.name} ({device.compute_capability})"
        )
    if reason := _other_graph(sidecar, bundle):
        return reason
    if not engine.path.is_file():
        return f"the plan {engine.path.name} is gone"
    return None


def _other_graph(sidecar: Sidecar, bundle: Bundle) -> str | None:
    """Whether the engine is of this bundle's variant as it is now: its graph, precision and batch."""
    variant = bundle.variant(sidecar.variant)
    by_flag = sidecar.typing == "weak" and variant.precision == "fp16"
    twin = variant.extra.get("twin") if by_flag else None
    source = next((other for other in bundle.manifest.variants if other.name == twin), variant)
    own = source.probe if sidecar.probe else File(source.file, source.sha256)
    if own is None or sidecar.graph.file != own.file or (sidecar.twin or variant.name) != source.name:
        found = f"{sidecar.graph.file} of {sidecar.twin or sidecar.variant}"
        return f"it was built from {found}, expected {own.file if own else 'no probe'} of {source.name}"
    if sidecar.graph != own:
        return f"the bundle's graph {own.file} changed since it was built"
    said = (sidecar.precision, sidecar.batch, sidecar.verdict)
    if said != (variant.precision, variant.batch, "honoured") or (
        sidecar.typing == "float32" and variant.precision != "fp32"
    ):
        return (
            f"its sidecar says {sidecar.precision} {sidecar.verdict} ({sidecar.typing}) at batch "
            f"{sidecar.batch}, expected {variant.precision} honoured at batch {variant.batch}"
        )
    return None


def _other_tensorrt(sidecar: Sidecar, features: Features) -> str | None:
    """Plans run on the TensorRT that made them; version compatible ones on newer ones, up to the next major.

    8.x to 10.x and 10.x to 11.x are next to one another: there is no 9 that others can have.
    """
    if sidecar.tensorrt == features.text:
        return None
    made, here = parse_version(sidecar.tensorrt), features.version
    majors = (made[0], here[0])
    if sidecar.options.version_compatible and made <= here and majors in _COMPATIBLE_MAJORS:
        return None
    return f"it was built by TensorRT {sidecar.tensorrt}, this is {features.text}"


_COMPATIBLE_MAJORS = ((8, 8), (10, 10), (11, 11), (8, 10), (10, 11))


def engines_of(bundle: Bundle, variant: Variant, probe: bool = False) -> list[EngineFile]:
    """All engines of a variant in the bundle, for any device; sidecars that cannot be read are left out."""
    return [found for found in _found(bundle, variant, probe) if isinstance(found, EngineFile)]


def _found(bundle: Bundle, variant: Variant, probe: bool) -> Iterator[EngineFile | BundleError]:
    """The same, with what is wrong with the others: one damaged file must not hide the rest."""
    begins = f"{variant.name}{'.probe' if probe else ''}."
    files = (bundle.path / FOLDER).glob("*.json")
    for file in sorted(file for file in files if file.name.startswith(begins)):
        try:
            sidecar = Sidecar.load(file)
        except BundleError as error:
            yield error
            continue
        if (sidecar.variant, sidecar.probe) == (variant.name, probe):
            yield EngineFile(file.with_suffix(".plan"), sidecar)


def engine_here(
    bundle: Bundle, variant: Variant, device: Device, features: Features, probe: bool = False
) -> EngineFile | None:
    """The engine of a variant that fits this device and TensorRT, the one made by this TensorRT first."""
    fitting = [
        engine
        for engine in engines_of(bundle, variant, probe)
        if check_engine(engine, bundle, device, features) is None
    ]
    fitting.sort(key=lambda engine: engine.sidecar.tensorrt != features.text)
    return fitting[0] if fitting else None


def find_engine(
    bundle: Bundle, variant: Variant, device: Device, features: Features, probe: bool = False
) -> EngineFile:
    """As `engine_here`. Raises MissingBackend that says why each engine of the variant does not fit."""
    engine = engine_here(bundle, variant, device, features, probe)
    if engine is not None:
        return engine
    reasons = [
        f"{other.path.name}: {check_engine(other, bundle, device, features)}"
        if isinstance(other, EngineFile)
        else str(other)
        for other in _found(bundle, variant, probe)
    ]
    found = "; ".join(reasons) or "none was built"
    raise MissingBackend(
        f"{bundle.path} has no engine of {variant.name}{' (probe)' if probe else ''} for TensorRT "
        f"{features.text} on {device.name}: {found}. Build it: tofe-export trt {bundle.path} --variant "
        f"{variant.name}{' --probe' if probe else ''}"
    )
