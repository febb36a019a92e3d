"""Is every variant of every model lint-clean on each TensorRT it is meant for? One command, one figure.

    python benchmarks/lint_matrix.py [--models "ViT 32 px,DeiT-S"] [--forms] [--table]

The models of the parity table, exported in every lowering at batch 1, 8 and dynamic, fp32 and fp16, some of
them in bf16 and both INT8 forms too; and the small one in every form of its modules (`FORMS`), with frames
as its input and with tokens as its output. Each graph, probes included, is checked for the targets in its
manifest; a static fp32 graph, which must be meant for all of them, for all. Only the graphs' structure
counts here: weights are drawn, two pictures are the reference, one is rounded.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
from drawn import drawn_checkpoint
from parity import MODELS

from tofe_export.bundle import Bundle
from tofe_export.calibration.int8 import Pictures, Settings
from tofe_export.graph.export import Quantizing, export, pictures_from
from tofe_export.graph.request import Request
from tofe_export.graph.typing import settle
from tofe_export.lint.findings import has_errors
from tofe_export.lint.lint import lint_targets
from tofe_export.lint.targets import TARGETS, Target, parse_target
from tofe_export.manifest import DYNAMIC, Variant
from tofe_export.preprocess import apply, frames_of

NAME = "lint_matrix"
DEFAULT = ("fp32", "fp16")  # what `onnx` writes by itself
EVERY = ("fp32", "fp16", "bf16", "int8", "int8fp16")
IN_EVERY_PRECISION = ("DeiT-S", "DINOv2-S reg", "LV-ViT-S", "ViT 32 px")
SMALL = "ViT 32 px"
WHOLE = Request(lowerings=("scatter", "concat", "adaptive"), batches=(1, 8, "dyn"))
SCATTER = replace(WHOLE, lowerings=("scatter", "adaptive"))  # `concat` refuses depthwise
FORMS: dict[str, tuple[dict[str, Any], Request]] = {
    "DynamicViT selectors": ({"selector": "dynamicvit"}, WHOLE),
    "approximator identity": ({"approximator": "identity"}, WHOLE),
    "approximator depthwise": ({"approximator": "depthwise"}, SCATTER),
    "approximator block": ({"approximator": "block"}, WHOLE),
    "without reuse": ({"reuse": False}, WHOLE),
    "selectors that know the budget": ({"conditioned": True}, WHOLE),
    "frames": ({}, replace(WHOLE, input="uint8")),
    "tokens": ({}, replace(WHOLE, output="tokens")),
    "counts that are multiples of 8": ({}, replace(WHOLE, align=8)),
}
PICTURES = 2
Row = dict[str, Any]


def measure(label: str, model: str, request: Request, options: dict[str, Any]) -> Row:
    """Export a model and check every graph of it."""
    name, own, budget = MODELS[model]
    started = time.perf_counter()
    checkpoint = drawn_checkpoint(name, seed=len(label), **{**own, **options})
    pictures = pictures_from(None, PICTURES)
    images = np.stack([apply(source, checkpoint.preprocessing) for source in pictures.sources])
    fed = frames_of(images, checkpoint.preprocessing) if request.input == "uint8" else images
    how = Quantizing(
        Settings(min_agreement=0.0),
        Pictures([fed], {"count": PICTURES, "sha256": "none: for structure only"}),
    )
    with tempfile.TemporaryDirectory() as folder:
        wanted = replace(request, budgets=(budget,))
        row = check(export(checkpoint, wanted, Path(folder) / "bundle", pictures, quantizing=how))
    row |= {"precisions": list(request.precisions), "seconds": round(time.perf_counter() - started, 1)}
    return {"model": label, "timm": name, **row}


def check(bundle: Bundle) -> Row:
    """What lint says of all graphs of a bundle."""
    variants = bundle.manifest.variants
    found = [(v, file, lint_targets(bundle.file(file), targets_of(v))) for v, file in graphs(variants)]
    faulty = {v.name for v, _, answers in found if any(map(has_errors, answers.values()))}
    promised = [v for v in variants if is_static_fp32(v)]
    others = Counter(
        f"{finding.severity}: {finding.rule}"
        for _, _, answers in found
        for findings in answers.values()
        for finding in findings
        if finding.severity != "error"
    )
    return {
        "variants": len(variants),
        "graphs": len(found),
        "checks": sum(len(answers) for _, _, answers in found),
        "clean": sum(not has_errors(f) for _, _, answers in found for f in answers.values()),
        "errors": [
            f"{file} on {target.name}: {finding.rule} at {finding.node}"
            for _, file, answers in found
            for target, findings in answers.items()
            for finding in findings
            if finding.severity == "error"
        ],
        "for_no_target": sorted(v.name for v in variants if not v.targets),
        "static_fp32": len(promised),
        "static_fp32_on_all": sum(meant_for_all(v) and v.name not in faulty for v in promised),
        "other_findings": dict(sorted(others.items())),
    }


def graphs(variants: Iterable[Variant]) -> Iterator[tuple[Variant, str]]:
    """Every graph with its variant: products and probes."""
    for variant in variants:
        yield variant, variant.file
        if variant.probe is not None:
            yield variant, variant.probe.file


def targets_of(variant: Variant) -> tuple[Target, ...]:
    """What the manifest says; a static fp32 variant is checked for all, whatever it says."""
    return TARGETS if is_static_fp32(variant) else tuple(map(parse_target, variant.targets))


def meant_for_all(variant: Variant) -> bool:
    """Whether the manifest names every TensorRT that lint knows."""
    return tuple(map(parse_target, variant.targets)) == TARGETS


def is_static_fp32(variant: Variant) -> bool:
    """Whether the design promises this variant to every TensorRT."""
    return variant.precision == "fp32" and variant.batch != DYNAMIC and variant.lowering != "adaptive"


def rows_wanted(models: Iterable[str], forms: bool) -> Iterator[tuple[str, str, Request, dict[str, Any]]]:
    """Label, model, what is exported of it, and how it is built."""
    for model in models:
        precisions = EVERY if model in IN_EVERY_PRECISION else DEFAULT
        yield model, model, replace(WHOLE, precisions=precisions), {}
    for label, (options, request) in FORMS.items() if forms else ():
        yield f"{SMALL}, {label}", SMALL, replace(request, precisions=EVERY), options


def is_clean(row: Row) -> bool:
    """Whether all checks are clean, there are some, and every static fp32 variant is clean on all targets."""
    clean = row["clean"] == row["checks"] > 0 and row["static_fp32"] == row["static_fp32_on_all"] > 0
    return bool(clean)


def table(rows: Iterable[Row]) -> str:
    """The stored rows as Markdown, and their sum."""
    rows = list(rows)
    keys = ("variants", "graphs", "checks", "clean", "static_fp32", "static_fp32_on_all")
    head = ("variants", "graphs", "graph x target", "clean", "static fp32", "clean on all targets")
    sums = {"model": "all", **{key: sum(row[key] for row in rows) for key in keys}}
    lines = [f"| model | {' | '.join(head)} |", "|---|" + "---|" * len(head)]
    lines += [f"| {row['model']} | {' | '.join(str(row[key]) for key in keys)} |" for row in [*rows, sums]]
    return "\n".join(lines)


def earlier() -> list[Row]:
    """The rows of an earlier run, so that models can be measured one by one."""
    path = machine.RESULTS / f"{NAME}.json"
    rows: list[Row] = json.loads(path.read_text())["models"] if path.exists() else []
    return rows


def main() -> int:
    """Check the models asked for; 1 if a graph is not clean."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", help="default: all of them, and the forms")
    parser.add_argument("--forms", action="store_true", help="with --models: the small model's forms too")
    parser.add_argument("--table", action="store_true", help="print the stored results as Markdown")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(earlier()))
        return 0
    settle.EVALUATED_IMAGES = 1
    chosen = arguments.models.split(",") if arguments.models is not None else list(MODELS)
    made = []
    wanted = rows_wanted(filter(None, chosen), arguments.forms or arguments.models is None)
    for label, model, request, options in wanted:
        row = measure(label, model, request, options)
        made.append(row)
        verdict = "clean" if is_clean(row) else f"NOT CLEAN {row['errors'][:3]}"
        print(f"{label}: {row['clean']} of {row['checks']} in {row['graphs']} graphs, {verdict}", flush=True)
        order = [name for name, *_ in rows_wanted(MODELS, True)]
        kept = [other for other in earlier() if other["model"] != label and other["model"] in order]
        every = sorted([*kept, row], key=lambda one: order.index(one["model"]))
        machine.write(NAME, {"targets": [target.name for target in TARGETS], "models": every})
    return 0 if all(map(is_clean, made)) else 1


if __name__ == "__main__":
    sys.exit(main())
