"""`tofe-export inspect [BUNDLE]`: what a bundle holds and what each variant costs, before anything runs.

MACs come in two accounts (`budget.py`): *executed* is what the graph really runs and what a profiler must
agree with, so people see it first, with its share of the dense model; *paper* is what a budget means. The
stage table appears when variants are picked; JSON always holds it. The files are compared with their hashes
last, so that a damaged bundle is described before it is refused. `--triton` and `--trtexec` print nothing but
what they are asked for, so that it can go into a file.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofe_export.budget import printed
from tofe_export.cli import bundles, console, options
from tofe_export.errors import BundleError

if TYPE_CHECKING:
    from tofe_export.budget import StageRow
    from tofe_export.bundle import Bundle
    from tofe_export.manifest import Manifest, Variant

Facts = dict[str, Any]


@click.command("inspect", short_help="What a bundle holds and costs.")
@options.bundle
@options.variant_filters
@click.option(
    "--triton",
    type=click.Choice(options.BACKENDS),
    help="Print Triton's config.pbtxt of the picked variants (else of the first with token reduction).",
)
@click.option(
    "--trtexec",
    metavar="TARGET",
    help="Print the trtexec line that builds them with that TensorRT: trt-10.3, jetpack-6.2, ...",
)
@options.json_target
@options.quiet
def command(
    bundle: Path,
    triton: str | None,
    trtexec: str | None,
    json_target: str | None,
    **filters: Any,  # noqa: ANN401 - what options.variant_filters declares
) -> None:
    """Print model, preprocessing, reference, and per variant tokens, MACs and files of BUNDLE.

    Executed MACs come first, the paper's account (which budgets use) second. Pick a variant to see its
    stages.
    """
    opened = bundles.open_bundle(bundle)
    chosen = bundles.variants_of(opened, filters)
    if triton or trtexec:
        chosen = chosen if any(filters.values()) else [opened.default_variant()]
        texts = recipes(opened, chosen, triton, trtexec)
        console.say("\n\n".join(text for found in texts.values() for text in found.values()))
        console.emit(texts, json_target)
        opened.check(chosen)
        return
    facts = {variant.name: variant_facts(opened, variant) for variant in chosen}
    console.say(overview(opened.manifest))
    console.say(variants_table(facts))
    if text := calibrated(facts):
        console.say(f"\n{text}")
    if any(filters.values()):
        for variant in chosen:
            console.say(f"\n{variant.name}\n{stage_table(stage_rows(opened.manifest, variant))}")
    console.emit(
        {
            "bundle": str(bundle),
            **{key: value for key, value in opened.manifest.to_json().items() if key != "variants"},
            "variants": list(facts.values()),
        },
        json_target,
    )
    opened.check(chosen)


def recipes(
    bundle: Bundle, variants: Sequence[Variant], triton: str | None, trtexec: str | None
) -> dict[str, dict[str, str]]:
    """Per variant what other tools need: {"triton", "trtexec"}. Raises `UsageError` where there is none."""
    from tofe_export.lint.targets import parse_target
    from tofe_export.triton import triton_config
    from tofe_export.trt.trtexec import trtexec_line

    found: dict[str, dict[str, str]] = {variant.name: {} for variant in variants}
    for variant in variants:
        if triton:
            found[variant.name]["triton"] = triton_config(bundle, variant, triton)
        if trtexec:
            found[variant.name]["trtexec"] = line = trtexec_line(bundle, variant, parse_target(trtexec))
            if "--layerPrecisions=" in line:
                console.note(
                    "trtexec holds layers by name only. `tofe-export trt` also holds what lies between them "
                    "and proves that the precision happened: prefer it on TensorRT 8.6"
                )
    return found


def overview(manifest: Manifest) -> str:
    """The facts that hold for all variants, one per line."""
    model, pre, reference = manifest.model, manifest.preprocessing, manifest.reference
    blocks = ", ".join(map(str, model.locations))
    lines = {
        "model": f"{model.backbone}, {'trained' if model.trained else 'NOT TRAINED'}",
        "modules": f"selector {model.selector}, approximator {model.approximator}, "
        f"{'with' if model.reuse else 'without'} reuse, selections before blocks {blocks}",
        "tokens": f"{model.tokens} ({model.grid[0]} x {model.grid[1]}) and {model.prefix} prefix",
        "output": f"{model.output}" + (f", {model.num_classes} classes" if model.output == "logits" else ""),
        "input": f"{'uint8 frames (B, H, W, 3), ' if model.takes_frames else ''}"
        f"{pre.size[0]} x {pre.size[1]}, crop {pre.crop:g} ({pre.crop_mode}), {pre.interpolation}",
        "mean, std": f"{_numbers(pre.mean)}; {_numbers(pre.std)}",
        "dense": f"{printed(dense_gmacs(manifest))} GMACs",
        "reference": f"{reference.count} images ({reference.source})",
        "weights": ", ".join(f"{file.file} ({size(file.bytes)})" for file in manifest.weights) or "none",
        "made": f"{manifest.created} by tofe-export {manifest.tool_version}",
    }
    return "\n".join(f"{key:<11}{value}" for key, value in lines.items()) + "\n"


def variant_facts(bundle: Bundle, variant: Variant) -> Facts:
    """One variant's manifest entry, its stages, share of dense, and bytes of its graph (None: gone)."""
    manifest = bundle.manifest
    entry: Facts = next(v for v in manifest.to_json()["variants"] if v["name"] == variant.name)
    try:
        graph_bytes = os.path.getsize(bundle.file(variant.file))
    except OSError:
        graph_bytes = None
    return entry | {
        "share_of_dense": variant.gmacs_executed / dense_gmacs(manifest),
        "stages": [vars(row) for row in stage_rows(manifest, variant)],
        "graph_bytes": graph_bytes,
    }


def variants_table(facts: dict[str, Facts]) -> str:
    """One line per variant: what it runs, beside the dense model and in the paper's account."""
    rows = []
    for name, fact in facts.items():
        tokens = [row["tokens"] for row in fact["stages"] if row["tokens"] is not None]
        keep = "all" if fact["keep"] is None else "/".join(map(str, fact["keep"]))
        if fact["lowering"] == "adaptive":
            keep = f"about {keep}"
        rows.append(
            (
                name,
                printed(fact["gmacs_executed"]),
                f"{fact['share_of_dense']:.0%}",
                printed(fact["gmacs"]),
                keep,
                "/".join(map(str, dict.fromkeys(tokens) if fact["keep"] is None else tokens)),
                fact["source"],
                "missing" if fact["graph_bytes"] is None else size(fact["graph_bytes"]),
                ", ".join(fact["targets"]),
            )
        )
    headers = (
        "variant",
        "GMACs run",
        "of dense",
        "paper's",
        "keep",
        "tokens",
        "counts from",
        "graph",
        "TensorRT",
    )
    return console.table(headers, rows, right=(1, 2, 3))


def calibrated(facts: dict[str, Facts]) -> str:
    """Which variants were calibrated on which pictures, how and when; one line each, or nothing.

    Raises `BundleError` for an account that is not what calibration writes.
    """
    from tofe_export.calibration.report import KEY, line
    from tofe_export.cli.int8_report import int8_line

    said: dict[str, list[str]] = {}
    for name, fact in facts.items():
        for key, words in ((KEY, line), ("int8", int8_line)):
            if key not in fact:
                continue
            try:
                text = words(fact[key])
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise BundleError(
                    f"manifest.json, variant {name}: expected under {key!r} how it was calibrated, found a "
                    f"damaged account ({error!r}). Copy the bundle again or export again"
                ) from error
            said.setdefault(text, []).append(name)
    return "\n".join(f"{', '.join(names)}: {text}" for text, names in said.items())


def stage_rows(manifest: Manifest, variant: Variant) -> list[StageRow]:
    """Stem, stages, head and total of one variant. Raises `BundleError` for counts that fit no such model."""
    from tofe_export.budget import describe

    try:
        return describe(manifest.cost, variant.keep or (), variant.lowering, manifest.model.output)
    except ValueError as error:
        raise BundleError(f"manifest.json, variant {variant.name}: {error}. Export again") from error


def stage_table(rows: list[StageRow]) -> str:
    """The plan of a variant in GMACs per image, executed first."""
    return console.table(
        ("stage", "blocks", "tokens", "kept", "of all", "GMACs run", "paper's"),
        [
            (
                row.name,
                row.blocks,
                "" if row.tokens is None else row.tokens,
                "" if row.keep is None else row.keep,
                "" if row.share is None else f"{row.share:.0%}",
                f"{row.executed / 1e9:.3f}",
                f"{row.macs / 1e9:.3f}",
            )
            for row in rows
        ],
        right=(2, 3, 4, 5, 6),
    )


def dense_gmacs(manifest: Manifest) -> float:
    """GMACs of the model without token reduction."""
    from tofe_export.budget import dense_macs, gmacs

    return gmacs(dense_macs(manifest.cost))


def size(count: int) -> str:
    """Bytes as people read them: 1.2 MB."""
    power = min((len(str(count)) - 1) // 3, 3)
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)
