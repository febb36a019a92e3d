"""How many silent faults does `verify` find, how well does it name them, and how often does it cry wolf?

    python benchmarks/faults.py [--seeds 10] [--kinds "crop,stale weight"] [--no-clean] [--out NAME]

Each of the ten kinds (`planting.py`) is planted once per seed, in copies of five tiny exported bundles with
drawn weights (`drawn.py`). `verify_bundle` then looks at the damaged variant and the dense one beside it.

    found   the verdict is a failure
    named   the diagnosis, or the preprocessing check, names the fault or its place (`Fault.fitting`)
    exact   it names the fault itself, and the right selection (`Fault.exact`, `Fault.stage`)

A fault in a graph can be without effect on the reference images (a selector moves and keeps the same tokens,
a value is clipped in a token that no head reads): then there is nothing to find, and it is drawn again; how
often is part of the result. The clean runs verify every variant of all structures; each failure there is a
false alarm. Exit code 1 if fewer than 99 % are found or any alarm is false.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import machine
import numpy as np
from drawn import drawn_checkpoint, spread_head
from planting import KINDS, plant
from scene import Base, Fault, Scene

from tofe_export.budget import gmacs, macs
from tofe_export.bundle import Bundle
from tofe_export.graph.export import Pictures, export, pictures_from
from tofe_export.graph.request import Request
from tofe_export.keep import Measured
from tofe_export.manifest import Batch
from tofe_export.model.checkpoint import Checkpoint
from tofe_export.preprocess import apply
from tofe_export.verify.report import BundleReport
from tofe_export.verify.run import verify_bundle

IMAGES = 8
LOWERINGS = ("scatter", "concat", "adaptive")
FOUND = 0.99  # share of faults that must be found
STRANGER = 1000  # added to a seed: weights of another training


@dataclass(frozen=True)
class Structure:
    """A tiny model: the options that differ from 64 x 64 pixels in patches of 8, four blocks of width 128."""

    name: str
    seeds: tuple[int, ...] = (0,)
    patch: int | None = 8
    depth: int = 4
    options: dict[str, Any] = field(default_factory=dict)
    lowerings: tuple[str, ...] = LOWERINGS

    def checkpoint(self, seed: int, pictures: Pictures) -> Checkpoint:
        """Drawn weights, and keep counts of a half, a third and a fifth for the least budget they fit."""
        arguments: dict[str, Any] = {"depth": self.depth, "embed_dim": 128, "num_heads": 4}
        if self.patch:
            arguments["patch_size"] = self.patch
        options: dict[str, Any] = {"image_size": (64, 64), "num_classes": 10, "arguments": arguments}
        checkpoint = drawn_checkpoint(self.name, seed, **(options | self.options))
        spread_head(
            checkpoint.model, np.stack([apply(p, checkpoint.preprocessing) for p in pictures.sources])
        )
        cost = checkpoint.model.cost()
        keep = tuple(cost.tokens // part for part in (2, 3, 5)[: cost.stages])
        budget = math.ceil(100 * gmacs(macs(cost, keep))) / 100
        checkpoint.table = (Measured(budget, keep, None, "the benchmark"),)
        return checkpoint


BASES: dict[str, Structure] = {
    "DeiT": Structure("deit_tiny_patch16_224", (0, 1)),
    "registers": Structure(
        "vit_small_patch14_reg4_dinov2", (2, 3), patch=None, options={"image_size": (98, 98)}
    ),
    "LV-ViT": Structure(
        "lvvit_s", (4, 5, 14, 15, 16), patch=None, depth=5, options={"image_size": (128, 128)}
    ),
    "no reuse": Structure("deit_tiny_patch16_224", (6, 7), options={"reuse": False}),
    "32 px": Structure("deit_tiny_patch16_224", (8,), patch=4, options={"image_size": (32, 32)}),
}
OTHERS: dict[str, Structure] = {
    "32 px, DynamicViT selector": Structure(
        "deit_tiny_patch16_224", (9,), patch=4, options={"image_size": (32, 32), "selector": "dynamicvit"}
    ),
    "map pooling, block approximator": Structure(
        "vit_base_patch16_siglip_224", (10,), options={"approximator": "block"}
    ),
    "distilled, two selections": Structure(
        "deit_small_distilled_patch16_224",
        (11,),
        depth=5,
        options={"approximator": "identity", "locations": (1, 3)},
    ),
    "DeiT-III, depthwise": Structure(
        "deit3_small_patch16_224",
        (12,),
        options={"image_size": (64, 96), "approximator": "depthwise"},
        lowerings=("scatter", "adaptive"),
    ),
    "AugReg, no reuse": Structure(
        "vit_small_patch16_224", (13,), depth=6, options={"selector": "dynamicvit", "reuse": False}
    ),
}


def make_base(
    label: str,
    structure: Structure,
    seed: int,
    folder: Path,
    *,
    budgets: int = 2,
    lowerings: Sequence[str] = LOWERINGS,
    batches: Sequence[Batch] = (1, 3, "dyn"),
) -> Base:
    """Export a structure; by default all that it can be exported as."""
    pictures = pictures_from(None, IMAGES)
    checkpoint = structure.checkpoint(seed, pictures)
    least = checkpoint.table[0].budget_gmacs
    request = Request(
        budgets=tuple(least + number / 100 for number in range(budgets)),
        lowerings=tuple(lowering for lowering in lowerings if lowering in structure.lowerings),
        batches=tuple(batches),
    )
    bundle = export(checkpoint, request, folder, pictures)
    return Base(label, checkpoint, bundle, partial(structure.checkpoint, seed + STRANGER, pictures))


@dataclass(frozen=True)
class Trial:
    """One planted fault, and what `verify` said."""

    scene: Scene
    fault: Fault
    report: BundleReport
    redraws: int

    @property
    def found(self) -> bool:
        """The verdict is a failure."""
        return not self.report.passed

    @property
    def cause(self) -> str | None:
        """What is blamed: by the preprocessing check, or by the damaged variant's diagnosis."""
        if not self.report.preprocessing.passed:
            return str(self.report.preprocessing.numbers["cause"])
        diagnosis = self.report.variants[-1].diagnosis
        return diagnosis.cause if diagnosis else None

    @property
    def exact(self) -> bool:
        """The cause is the fault's own, at its selection."""
        return self.cause in self.fault.exact and self._stage in (None, self.fault.stage)

    @property
    def named(self) -> bool:
        """Exact, or a cause that fits at that selection or the next."""
        stages = (None, self.fault.stage, (self.fault.stage or 0) + 1)
        return self.exact or (self.cause in self.fault.fitting and self._stage in stages)

    @property
    def _stage(self) -> int | None:
        diagnosis = self.report.variants[-1].diagnosis
        return diagnosis.stage if diagnosis and self.report.preprocessing.passed else None

    def row(self) -> dict[str, Any]:
        """Everything about it, for JSON."""
        variant = self.report.variants[-1]
        return {
            "model": self.scene.base.label,
            "variant": variant.name,
            "where": self.fault.where,
            "planted": self.fault.what,
            "found": self.found,
            "named": self.named,
            "exact": self.exact,
            "cause": self.cause,
            "diagnosis": variant.diagnosis.sentence if variant.diagnosis else None,
            "failed": [check.name for check in variant.failed],
            "output_error": variant.output.worst if variant.output else None,
            "redraws": self.redraws,
        }


def trial(kind: str, base: Base, seed: int) -> Trial:
    """Plant one fault in a temporary copy of `base` and verify it."""
    for attempt in range(20):
        with tempfile.TemporaryDirectory() as folder:
            scene, fault = plant(kind, base, Path(folder) / "bundle", f"{seed}, {attempt}")
            if fault.where.startswith("product") and not scene.changes_answers():
                continue
            bundle = Bundle.open(scene.folder)
            dense = bundle.variant(f"dense-fp32-b{scene.variant.batch}")
            report = verify_bundle(bundle, [dense, bundle.variant(scene.variant.name)])
            return Trial(scene, fault, report, attempt)
    raise RuntimeError(f"{kind}, seed {seed}: nothing that was drawn has an effect")


def run_faults(bases: Sequence[Base], kinds: Sequence[str], seeds: int) -> dict[str, list[dict[str, Any]]]:
    """Plant every kind `seeds` times, on each base in turn; one row per fault."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for kind in kinds:
        for seed in range(seeds):
            row = trial(kind, bases[seed % len(bases)], seed).row()
            rows[kind].append({"seed": seed, **row})
            verdict = next((word for word in ("exact", "named", "found") if row[word]), "MISSED")
            where = f"{row['model']}, {row['variant']}, {row['where']}"
            print(f"{kind:18} {verdict:7}{row['planted']} ({where}): {row['cause']}", flush=True)
    return rows


def run_clean(base: Base) -> dict[str, Any]:
    """Verify every variant of a correct bundle."""
    report = verify_bundle(base.bundle, base.bundle.manifest.variants)
    failing = [v for v in report.variants if not v.passed]
    alarms = [{"variant": v.name, "failed": {c.name: c.detail for c in v.failed}} for v in failing]
    if not report.preprocessing.passed:
        alarms.append({"variant": "preprocessing", "failed": {"preprocessing": report.preprocessing.detail}})
    worst = max(v.output.worst for v in report.variants if v.output)
    print(f"clean: {base.label}, {len(report.variants)} variants, {len(alarms)} false alarms", flush=True)
    return {
        "model": base.label,
        "keep": sorted({v.keep for v in base.bundle.manifest.variants if v.keep}),
        "runs": len(report.variants),
        "near_ties": sum(stage.swapped_images for v in report.variants for stage in v.stages),
        "worst_output": worst,
        "false_alarms": alarms,
    }


def summary(faults: dict[str, list[dict[str, Any]]], clean: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures that people read first."""
    counts, kinds = Counter[str](), {}
    for kind, rows in faults.items():
        kinds[kind] = {key: sum(row[key] for row in rows) for key in ("found", "named", "exact", "redraws")}
        kinds[kind]["planted"] = len(rows)
        counts.update(kinds[kind])
    return {
        **counts,
        "clean_runs": sum(row["runs"] for row in clean),
        "false_alarms": sum(len(row["false_alarms"]) for row in clean),
        "kinds": kinds,
    }


def main() -> int:
    """Run both halves and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--no-clean", action="store_true")
    parser.add_argument("--out", default="faults")
    arguments = parser.parse_args()
    started, clean = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        bases = []
        for label, structure in BASES.items():
            bases.append(make_base(label, structure, structure.seeds[0], Path(folder) / label))
            clean += [] if arguments.no_clean else [run_clean(bases[-1])]
        faults = run_faults(bases, arguments.kinds.split(","), arguments.seeds)
    for label, structure in ({} if arguments.no_clean else BASES | OTHERS).items():
        for seed in structure.seeds[1:] if label in BASES else structure.seeds:
            with tempfile.TemporaryDirectory() as folder:
                clean.append(
                    run_clean(make_base(f"{label}, seed {seed}", structure, seed, Path(folder) / "bundle"))
                )
    figures = summary(faults, clean)
    for kind, counts in figures["kinds"].items():
        print(f"{kind:20} {counts}")
    print({key: value for key, value in figures.items() if key != "kinds"})
    seconds = round(time.perf_counter() - started, 1)
    result = {"summary": figures, "seconds": seconds, "faults": faults, "clean": clean}
    print("wrote", machine.write(arguments.out, result))
    return int(figures["found"] < FOUND * figures["planted"] or figures["false_alarms"] > 0)


if __name__ == "__main__":
    sys.exit(main())
