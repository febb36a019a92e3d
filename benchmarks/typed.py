"""Half precision on full-size models: valid in ONNX Runtime, and judged with every tensor rounded.

    python benchmarks/typed.py --images DIR [--num-images 64] [--models DeiT-S,LV-ViT-S] [--evaluate 4]

Each model is exported in fp32, fp16 and bf16 with PyTorch's answers on the pictures. `verify` judges the
fp16 graphs in ONNX Runtime on all of them; the rounding evaluator judges fp16 and bf16 on a few, at export. A
model with a planted large activation shows what the magnitude check is for. Weights are drawn (`drawn.py`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from drawn import drawn_checkpoint, spread_head
from parity import MODELS

from tofe_export.graph.export import Pictures, export, pictures_from
from tofe_export.graph.request import Request
from tofe_export.graph.typing import settle
from tofe_export.graph.typing.magnitudes import UNMEASURED
from tofe_export.graph.typing.settle import Evaluation, Settler
from tofe_export.manifest import Variant
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.preprocess import apply
from tofe_export.verify.run import verify_bundle

WANTED = ("DeiT-S", "DeiT-B", "LV-ViT-S", "DINOv2-S reg")
PLANTED_SCALE = 1e5


def make(label: str, pictures: Pictures) -> Checkpoint:
    """A drawn model whose head tells the pictures apart."""
    name, options, _ = MODELS[label]
    checkpoint = drawn_checkpoint(name, seed=len(label), **options)
    prepared = np.stack([apply(source, checkpoint.preprocessing) for source in pictures.sources])
    spread_head(checkpoint.model, prepared)
    return checkpoint


def measure(label: str, pictures: Pictures) -> dict[str, Any]:
    """Export one model in all precisions; verdicts of ONNX Runtime and of the evaluator."""
    started = time.perf_counter()
    checkpoint = make(label, pictures)
    request = Request(
        (MODELS[label][2],), lowerings=("scatter", "concat"), precisions=("fp32", "fp16", "bf16")
    )
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(checkpoint, request, Path(folder) / "bundle", pictures)
        exported = time.perf_counter() - started
        judged = [variant for variant in bundle.manifest.variants if variant.precision == "fp16"]
        report = verify_bundle(bundle, judged)
        rows = [_row(variant) for variant in bundle.manifest.variants if "evaluated" in variant.extra]
        sizes = {weights.file.rpartition("/")[2]: weights.bytes for weights in bundle.manifest.weights}
    return {
        "model": label,
        "timm": MODELS[label][0],
        "passed": report.passed,
        "export_seconds": round(exported, 1),
        "weights_bytes": sizes,
        "evaluated": rows,
        "onnxruntime": [_short(one) for one in report.to_json()["variants"]],
    }


def planted(pictures: Pictures, evaluated: int) -> dict[str, Any]:
    """DeiT-S with one MLP channel 1e5 times larger: with and without the magnitude check."""
    checkpoint = make("DeiT-S", pictures)
    mlp: Any = checkpoint.model.get_submodule("backbone.vit.blocks.4.mlp")
    with torch.no_grad():
        mlp.fc1.weight[7] *= PLANTED_SCALE
        mlp.fc2.weight[:, 7] /= PLANTED_SCALE
    request = Request((MODELS["DeiT-S"][2],), precisions=("fp16",))
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(checkpoint, request, Path(folder) / "with", pictures)
        first = _first_evaluation(checkpoint, request, Path(folder) / "without", pictures)
        reduced = next(v for v in bundle.manifest.variants if not v.dense)
    held = {name: why for name, why in reduced.extra["float32_nodes"].items() if why.startswith("magnitude")}
    return {
        "planted": f"blocks.4.mlp, one channel times {PLANTED_SCALE:.0e}",
        "held": held,
        "evaluated": reduced.extra["evaluated"],
        "without_the_check": {"overflow": str(first.overflow), "failures": first.failures},
        "images": evaluated,
    }


def _first_evaluation(
    checkpoint: Checkpoint, request: Request, folder: Path, pictures: Pictures
) -> Evaluation:
    """What the evaluator sees if nothing was measured before."""
    seen: list[Evaluation] = []
    measure_, evaluate = Settler.measure, Settler.evaluate

    def listen(self: Settler, *parts: Any) -> Evaluation:  # noqa: ANN401 - handed on
        seen.append(evaluate(self, *parts))
        return seen[-1]

    Settler.measure = lambda *_: UNMEASURED  # type: ignore[method-assign]
    Settler.evaluate = listen  # type: ignore[method-assign, assignment]
    try:
        export(checkpoint, request, folder, pictures)
    finally:
        Settler.measure, Settler.evaluate = measure_, evaluate  # type: ignore[method-assign]
    return seen[0]


def _row(variant: Variant) -> dict[str, Any]:
    reasons = variant.extra["float32_nodes"].values()
    kinds = Counter(why.partition(" of ")[0].partition(" on ")[0] for why in reasons)
    return {"name": variant.name, **variant.extra["evaluated"], "float32_nodes": dict(kinds)}


def _short(report: dict[str, Any]) -> dict[str, Any]:
    kept = ("name", "passed", "images", "output", "stages")
    return {key: report[key] for key in kept} | {
        "failed": [check["name"] for check in report["checks"] if not check["passed"]]
    }


def main() -> int:
    """Measure the models asked for; 1 if any fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--models", default=",".join(WANTED))
    parser.add_argument(
        "--evaluate", type=int, default=settle.EVALUATED_IMAGES, help="pictures for the evaluator"
    )
    parser.add_argument("--out", default="typed")
    arguments = parser.parse_args()
    settle.EVALUATED_IMAGES = arguments.evaluate
    pictures = pictures_from(arguments.images, arguments.num_images)
    source = "photos of a folder" if arguments.images else "the built-in images"
    figures: dict[str, Any] = {"images": f"{len(pictures.sources)} {source}", "models": []}
    for label in arguments.models.split(","):
        figures["models"].append(measure(label, pictures))
        print_row(figures["models"][-1])
        machine.write(arguments.out, figures)
    figures["planted"] = planted(pictures, arguments.evaluate)
    print(json.dumps(figures["planted"], indent=1))
    print("wrote", machine.write(arguments.out, figures))
    return 0 if all(row["passed"] for row in figures["models"]) else 1


def print_row(row: dict[str, Any]) -> None:
    """One line per variant."""
    print(f"{row['model']}: exported in {row['export_seconds']} s", flush=True)
    for one in row["evaluated"]:
        sets = (
            f", scores {max(one['scores']):.1e}, overlap {min(one['overlap']):.1%}" if "scores" in one else ""
        )
        output = one.get("forced_output", one["output"])
        print(f"  rounded      {one['name']:26} output {output:.1e}{sets}, top-1 {one['top1']}", flush=True)
    for one in row["onnxruntime"]:
        verdict = "ok  " if one["passed"] else "FAIL"
        print(f"  onnxruntime  {one['name']:26} {verdict} output {one['output']['worst']:.1e}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
