"""What every bundle command does first: open the bundle, warn where it must, find the variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from tofe_export.cli import console

if TYPE_CHECKING:
    from tofe_export.bundle import Bundle
    from tofe_export.manifest import Variant
    from tofe_export.runtime.choice import Choice


def open_bundle(path: Path) -> Bundle:
    """Open the bundle and warn where its answers mean nothing. Raises `BundleError`."""
    from tofe_export.bundle import Bundle

    bundle = Bundle.open(path)
    if not bundle.manifest.model.trained:
        console.warn(
            f"{path}: the ToFe modules of this model are NOT TRAINED. Speed and parity can be judged, its "
            "answers cannot: train them with `tofe-export train` before use"
        )
    return bundle


def variants_of(bundle: Bundle, filters: Mapping[str, Any]) -> list[Variant]:
    """The variants that `options.variant_filters` picked; all without a filter. Raises `VariantError`."""
    return bundle.select(**filters) or [bundle.default_variant()]


def choose_backend(
    bundle: Bundle, variants: Sequence[Variant], backend: str | None, provider: str | None, named: bool
) -> Choice:
    """Which backend runs what, said where the user left it open. Raises `MissingBackend`, `UsageError`."""
    from tofe_export.runtime.choice import choose

    choice = choose(bundle, variants, backend, provider, named)
    if choice.remark:
        console.warn(choice.remark)
    elif choice.backend == "tensorrt" and backend is None:
        console.note("running the TensorRT engines of this device (--backend onnxruntime runs the graphs)")
    if choice.left_out and choice.backend == "tensorrt":
        console.warn(
            f"no engine here, so not run: {', '.join(choice.left_out)}. Build them: tofe-export trt "
            f"{quote(str(bundle.path))}"
        )
    return choice


def choose_first(
    bundle: Bundle, filters: Mapping[str, Any], backend: str | None, provider: str | None
) -> Choice:
    """As `choose_backend`, but without a filter the first variant with token reduction that can run."""
    from dataclasses import replace

    from tofe_export.runtime.choice import choose

    if any(filters.values()):
        return choose_backend(bundle, variants_of(bundle, filters), backend, provider, bool(filters["names"]))
    first = bundle.default_variant()
    others = [variant for variant in bundle.manifest.variants if not variant.dense and variant != first]
    choice = choose(bundle, [first, *others], backend, provider)
    if choice.remark:
        console.warn(choice.remark)
    return replace(choice, variants=choice.variants[:1], left_out=())
