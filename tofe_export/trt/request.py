"""From "this variant" to "this graph, typed this way": decided before TensorRT starts, refused with reasons.

Three ways lead to a precision, and which one there is depends on the TensorRT (`compat.Features`):

    strong    10.x, 11.x   the variant's own graph; its types are the engine's types
    weak      8.6          fp16: the float32 graph of the same budget (`twin`), a flag that allows the
                           precision, and the layers named in the manifest held in float32 (`hold_float32`,
                           and the typed variant's `float32_nodes`);
                           int8: the variant's own graph, whose Quantize nodes say where, and a flag
    float32   8.6          the float32 graph, no flag
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, UsageError
from tofe_export.manifest import DYNAMIC, File, Variant
from tofe_export.trt.compat import Features

Typing = Literal["strong", "weak", "float32"]


@dataclass(frozen=True)
class BuildOptions:
    """What changes an engine besides its graph."""

    workspace_mib: int | None = None  # None: what TensorRT allows itself
    opt_level: int | None = None  # 0..5; None: TensorRT's default, 3
    profile: tuple[int, int, int] | None = None  # smallest, typical, largest batch of a dynamic variant
    version_compatible: bool = False

    def for_variant(self, variant: Variant) -> BuildOptions:
        """The same, with a profile exactly where the batch is dynamic."""
        profile = (self.profile or DEFAULT_PROFILE) if variant.batch == DYNAMIC else None
        return BuildOptions(self.workspace_mib, self.opt_level, profile, self.version_compatible)


DEFAULT_PROFILE = (1, 8, 32)


@dataclass(frozen=True)
class Job:
    """One engine to build."""

    variant: Variant  # whose engine it will be
    graph: File  # what is parsed: the variant's own or its twin's, product or probe
    probe: bool
    typing: Typing
    twin: str | None  # the variant that `graph` belongs to, where it is not `variant`
    hold_float32: tuple[str, ...]  # weak only: node names
    options: BuildOptions

    @property
    def name(self) -> str:
        """For people: "2.00g-scatter-fp16-b1 (probe)"."""
        return f"{self.variant.name} (probe)" if self.probe else self.variant.name


def make_job(
    bundle: Bundle, variant: Variant, features: Features, options: BuildOptions, probe: bool = False
) -> Job:
    """Decide how a variant's engine is built.

    Raises UsageError (not with this TensorRT, or no probe) and BundleError (the manifest lacks something).
    """
    if not re.fullmatch(r"\w[\w.-]*", variant.name):
        raise BundleError(
            f"manifest.json: expected variants whose names can be file names, found {variant.name!r}. Do not "
            "use this bundle unless you know where it comes from"
        )
    typing = _typing(variant, features)
    source, held = variant, tuple[str, ...]()
    if typing == "weak" and variant.precision == "fp16":
        source = _twin(bundle, variant)
        held = _held(source) + (_held(source, "hold_float32_probe", optional=True) if probe else ())
        large = variant.extra.get("float32_nodes", {})  # what the export found too large for half precision
        held = tuple(dict.fromkeys([*held, *(large if isinstance(large, Mapping) else ())]))
    if probe and source.probe is None:
        raise UsageError(f"variant {variant.name} has no probe graph, since it selects no tokens")
    graph = source.probe if probe and source.probe is not None else File(source.file, source.sha256)
    twin = source.name if source is not variant else None
    return Job(variant, graph, probe, typing, twin, held, options.for_variant(variant))


def _typing(variant: Variant, features: Features) -> Typing:
    if features.strong_types:
        return "strong"
    if variant.precision == "fp32":
        return "float32"
    if variant.precision in ("fp16", "int8") and features.weak_types:
        return "weak"
    raise UsageError(
        f"TensorRT {features.text} cannot build {variant.precision} (variant {variant.name}): that needs "
        "10.0 or newer. Build --fp16 or --fp32 here"
    )


def _twin(bundle: Bundle, variant: Variant) -> Variant:
    """The float32 variant of the same budget, lowering and batch."""
    name = variant.extra.get("twin")
    if not isinstance(name, str):
        raise _export_again(variant, "the name of its float32 twin")
    for other in bundle.manifest.variants:
        if other.name == name and other.precision == "fp32":
            return other
    raise UsageError(
        f"TensorRT 8.6 builds {variant.name} from the float32 graph {name}, which is not in {bundle.path}. "
        "Make it on the host: " + host_command(bundle, ["fp32"])
    )


def _held(twin: Variant, key: str = "hold_float32", optional: bool = False) -> tuple[str, ...]:
    held = twin.extra.get(key, [] if optional else None)
    if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
        raise _export_again(twin, "the layers that must stay in float32")
    return tuple(held)


def _export_again(variant: Variant, lacks: str) -> BundleError:
    return BundleError(
        f"manifest.json, variant {variant.name}: expected {lacks}, found none. Export again with this "
        "tofe-export"
    )


def host_command(bundle: Bundle, precisions: Iterable[str]) -> str:
    """The command that adds graphs of these precisions to the bundle, on the host."""
    budgets = {v.budget_gmacs for v in bundle.manifest.variants if v.budget_gmacs is not None}
    listed = ",".join(f"{budget:g}" for budget in sorted(budgets)) or "2.0"
    return (
        f"tofe-export onnx --ckpt FILE --budget {listed} --precision {','.join(precisions)} "
        f"--out {bundle.path}"
    )
