"""What every bundle command does first: open the bundle, warn where it must, find the variants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofe_export.cli import console

if TYPE_CHECKING:
    from tofe_export.bundle import Bundle
    from tofe_export.manifest import Variant


def open_bundle(path: Path) -> Bundle:
    """Open the bundle and warn where its answers mean nothing. Raises `BundleError`."""
    from tofe_export.bundle import Bundle

    bundle = Bundle.open(path)
    if not bundle.manifest.model.trained:
        console.warn(
            f"{path}: the ToFe modules of this model are NOT TRAINED. Speed and parity can be judged, its "
            "answers cannot: train them before use"
        )
    return bundle


def variants_of(bundle: Bundle, filters: Mapping[str, Any]) -> list[Variant]:
    """The variants that `options.variant_filters` picked; all without a filter. Raises `VariantError`."""
    return bundle.select(**filters) or [bundle.default_variant()]


def first_variant(bundle: Bundle, filters: Mapping[str, Any]) -> list[Variant]:
    """The same, but without a filter the first variant with token reduction. Raises `VariantError`."""
    return variants_of(bundle, filters) if any(filters.values()) else [bundle.default_variant()]
