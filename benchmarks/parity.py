"""The parity table: every supported family, both static lowerings at batch 1, 8 and dynamic, and adaptive.

    python benchmarks/parity.py [--images DIR] [--num-images 64] [--models deit_s,lvvit_s] [--out NAME]

Each model is exported with PyTorch's answers on the pictures, and `verify` judges every variant with the
limits of the command line tool. Weights are drawn (`drawn.py`), so accuracy is not at stake; agreement is.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from drawn import drawn_checkpoint, spread_head

from tofe_export.budget import dense_macs, gmacs, macs_executed
from tofe_export.bundle import Bundle
from tofe_export.graph.export import export, pictures_from
from tofe_export.graph.request import Request
from tofe_export.model.build import build_checkpoint
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.preprocess import apply
from tofe_export.verify.run import verify_bundle

MODELS: dict[str, tuple[str, dict[str, Any], float]] = {
    "DeiT-T": ("deit_tiny_patch16_224", {}, 0.6),
    "DeiT-S": ("deit_small_patch16_224", {}, 2.0),
    "DeiT-B": ("deit_base_patch16_224", {}, 8.6),
    "DeiT-S distilled": ("deit_small_distilled_patch16_224", {}, 2.0),
    "DeiT-III-S": ("deit3_small_patch16_224", {}, 2.0),
    "AugReg ViT-S": ("vit_small_patch16_224", {}, 2.0),
    "DINOv2-S reg": ("vit_small_patch14_reg4_dinov2", {"image_size": (224, 224), "num_classes": 1000}, 2.6),
    "SigLIP-B": ("vit_base_patch16_siglip_224", {}, 8.6),
    "LV-ViT-S": ("lvvit_s", {}, 3.3),
    "LV-ViT-M": ("lvvit_m", {}, 6.1),
    "ViT 32 px": (
        "deit_tiny_patch16_224",
        {"image_size": (32, 32), "num_classes": 10, "arguments": {"patch_size": 4}},
        0.18,
    ),
}


def measure(label: str, images: Path | None, count: int) -> dict[str, Any]:
    """Export and verify one model; returns its row with every variant's report."""
    name, options, budget = MODELS[label]
    started = time.perf_counter()
    checkpoint = drawn_checkpoint(name, seed=len(label), **options)
    pictures = pictures_from(images, count)
    prepared = np.stack([apply(source, checkpoint.preprocessing) for source in pictures.sources])
    spread_head(checkpoint.model, prepared)
    request = Request((budget,), lowerings=("scatter", "concat", "adaptive"), batches=(1, 8, "dyn"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        checkpoint.save(path)
        bundle = export(checkpoint, request, Path(folder) / "bundle", pictures)
        judged = [v for v in bundle.manifest.variants if not v.dense or v.batch == 1]
        report = verify_bundle(bundle, judged)
        winners = len(set(bundle.reference().output("dense").argmax(-1).tolist()))
        same = _dense_equals_backbone(checkpoint, bundle)
    return {
        "model": label,
        "timm": name,
        "passed": report.passed,
        "classes_that_win": winners,
        "dense_against_untouched_timm": same,
        "keep": next(list(v.keep) for v in bundle.manifest.variants if v.keep),
        "seconds": round(time.perf_counter() - started, 1),
        # the machine is in the file once, and the bundle was a temporary folder
        "report": {k: v for k, v in report.to_json().items() if k not in ("machine", "bundle")},
    }


def _dense_equals_backbone(checkpoint: Checkpoint, bundle: Bundle) -> float | None:
    """Worst difference of the dense reference to timm's own model, attention fused, over the range."""
    import timm

    backbone = checkpoint.model.backbone
    if backbone.name.startswith("lvvit"):
        return None
    plain = timm.create_model(backbone.name, **backbone.arguments).eval()
    plain.load_state_dict(backbone.vit.state_dict())
    reference = bundle.reference()
    with torch.inference_mode():
        theirs = plain(torch.from_numpy(reference.images[:16])).numpy()
    ours = reference.output("dense")[:16]
    return float((np.abs(ours - theirs).max(-1) / (theirs.max(-1) - theirs.min(-1))).max())


def main() -> int:
    """Measure the models asked for; 1 if any fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--out", default="parity")
    parser.add_argument("--table", action="store_true", help="print the stored results as Markdown")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads((machine.RESULTS / f"{arguments.out}.json").read_text())["models"]))
        return 0
    source = "photos of a folder" if arguments.images else "the built-in images"
    images = f"{arguments.num_images} {source}"
    rows = []
    for label in arguments.models.split(","):
        rows.append(measure(label, arguments.images, arguments.num_images))
        print_row(rows[-1])
        kept = [row for row in earlier(arguments.out, images) if row["model"] != label]
        every = sorted((*kept, rows[-1]), key=lambda row: list(MODELS).index(row["model"]))
        machine.write(arguments.out, {"images": images, "models": every})
    return 0 if all(row["passed"] for row in rows) else 1


def table(rows: list[dict[str, Any]]) -> str:
    """Stored results as Markdown: per model the worst figures over its variants."""
    lines = [
        "| model | GMACs | keep | variants | worst logits | worst scores | same class | same sets |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        judged = row["report"]["variants"]
        outputs = [variant["output"] for variant in judged]
        stages = [stage for variant in judged for stage in variant["stages"]]
        top1 = [output["top1"] for output in outputs if output["top1"] is not None]
        cells = (
            row["model"],
            costs(row),
            "/".join(map(str, row["keep"])),
            f"{sum(v['passed'] for v in judged)} of {len(judged)} pass",
            f"{max(output['worst'] for output in outputs):.1e}",
            f"{max(stage['score_error'] for stage in stages):.1e}",
            f"{min(top1):.0%}" if top1 else "-",
            f"{min(stage['overlap'] for stage in stages):.1%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def costs(row: dict[str, Any]) -> str:
    """Executed GMACs, dense and in the scatter lowering."""
    with torch.device("meta"):
        cost = build_checkpoint(row["timm"], None, **MODELS[row["model"]][1]).model.cost()
    dense, reduced = dense_macs(cost), macs_executed(cost, row["keep"], "scatter")
    return f"{gmacs(dense):.2f} to {gmacs(reduced):.2f}"


def earlier(name: str, images: str) -> list[dict[str, Any]]:
    """Rows of an earlier run on the same pictures, so that models can be measured one by one."""
    path = machine.RESULTS / f"{name}.json"
    content = json.loads(path.read_text()) if path.exists() else {}
    rows: list[dict[str, Any]] = content.get("models", []) if content.get("images") == images else []
    return rows


def print_row(row: dict[str, Any]) -> None:
    """One line per variant."""
    head = f"{row['model']}: keep {row['keep']}, {row['classes_that_win']} classes win, {row['seconds']} s"
    print(head, "" if row["passed"] else "FAILED", flush=True)
    for variant in row["report"]["variants"]:
        output = variant["output"]
        print(
            f"  {variant['name']:32} {'ok' if variant['passed'] else 'FAIL'} worst {output['worst']:.1e}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
