"""`tofe-export calibrate [BUNDLE]`: INT8 variants of a bundle's graphs, calibrated on pictures."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Any

from tofe_export.cli import bundles, calibrate_pictures, console, host, int8_options, int8_report, options
from tofe_export.errors import UsageError

DEFAULT_PRECISIONS = ("int8",)
VARIANT_FILTERS = ("names", "budgets", "lowerings", "batches")


def calibrate_bundle(
    path: Path | None, given: dict[str, Any], pictures: calibrate_pictures.Given, json_target: str | None
) -> None:
    """Add INT8 variants of the float32 variants that were picked.

    Raises what `int8.add_int8` does, UsageError for another precision, VariantError where nothing is picked,
    ImageError, and VerdictFailed where TensorRT would not take what was made.
    """
    host.require_graph()
    from tofe_export.calibration.int8 import FORMS, add_int8
    from tofe_export.cli.onnx import lint_targets

    precisions = given["precisions"] or DEFAULT_PRECISIONS
    if others := [name for name in precisions if name not in FORMS]:
        raise UsageError(
            f"--precision {','.join(others)}: expected what is calibrated, {' or '.join(FORMS)}. Others are "
            "made by tofe-export onnx"
        )
    bundle = bundles.open_bundle(path or options.DEFAULT_BUNDLE)
    filters = {name: given[name] for name in VARIANT_FILTERS}
    twins = bundle.select(**filters, precisions=("fp32",))
    manifest = bundle.manifest
    stream = pictures.open(manifest.preprocessing, frames=manifest.model.takes_frames)
    chosen, settings = int8_options.pictures_of(stream), int8_options.settings_of(given)
    with console.progress("calibrate:") as bar:
        made = add_int8(bundle, chosen, settings, precisions, twins, bar.show)
    wanted = {twin.name.replace("-fp32-b", f"-{form}-b") for twin in twins for form in precisions}
    variants = [variant for variant in made.manifest.variants if variant.name in wanted]
    console.say(int8_report.int8_table(variants))
    where = "" if made.path == options.DEFAULT_BUNDLE else f" {quote(str(made.path))}"
    console.say(f"wrote {made.path}; prove it with: tofe-export verify{where}")
    facts = {variant.name: dict(variant.extra["int8"]) for variant in variants}
    console.emit(
        {"bundle": str(made.path), "images": stream.facts().to_json(), "variants": facts}, json_target
    )
    lint_targets(made, [variant.name for variant in variants])
