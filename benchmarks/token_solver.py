"""Keep counts chosen on unlabelled images, against a scaled profile and against the paper's ratios.

ToFe is trained on half of scikit-learn's digits, by the small setting of the accuracy experiment, once for
one budget and once for two (conditioned). The other half, which training never sees, is split again: on 450
images without labels `calibrate` chooses counts for three budgets; on the rest all are judged by accuracy
and by the divergence from the dense and from the adaptive model.

    python benchmarks/token_solver.py [--seeds 3,4,5] [--work DIR]
    python benchmarks/token_solver.py --table         the results as Markdown

Seeds 0, 1 and 2 are those on which `calibrate`'s rules were chosen.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import machine
import numpy as np
import torch
from accuracy.contender import Start
from accuracy.controls import dense_macs_of
from accuracy.ours import tofe
from accuracy.settings import SMALL
from accuracy.tasks import Arrays, Task, load_task
from accuracy.training import dense_backbone, train
from PIL import Image
from torch import Tensor

from tofe_export.calibration.divergence import divergence
from tofe_export.calibration.images import select
from tofe_export.calibration.stream import ImageStream
from tofe_export.calibration.targets import Target
from tofe_export.calibration.thresholds import settle_thresholds
from tofe_export.calibration.tokens import AGAINST, Images, solve_tokens
from tofe_export.keep import PAPER_PROFILE, Measured, fill_budget, solve
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.masked import above, masked_forward
from tofe_export.model.tofe import ToFe
from tofe_export.preprocess import Preprocessing
from tofe_export.training.loading import in_order
from tofe_export.training.settle import settle
from tofe_export.training.tofe_objective import ToFeObjective

SHARES = SMALL.budgets
TRAINED = {"trained for one budget": (0.5,), "trained for two budgets": (0.375, 0.7)}
CHOSEN_ON = 450
PREPROCESSING = Preprocessing((32, 32), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
METHODS = ("profile", "paper", *(f"{how}, {against}" for against in AGAINST for how in ("found", "kept")))


def main() -> None:
    """Train, choose, judge, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="3,4,5", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--work", type=Path, help="Where backbones and finished seeds are kept.")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads((machine.RESULTS / "token_solver.json").read_text())["summary"]))
        return
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in arguments.seeds:
            rows += known_or_measured(seed, arguments.work or Path(folder), Path(folder) / f"pictures{seed}")
    summary = summarise(rows)
    print_summary(summary)
    settings = {"size": SMALL.to_json(), "chosen_on": CHOSEN_ON, "seeds": list(arguments.seeds)}
    print("wrote", machine.write("token_solver", {"settings": settings, "summary": summary, "rows": rows}))


def known_or_measured(seed: int, work: Path, pictures: Path) -> list[dict[str, Any]]:
    """The rows of a seed, from `work` if they are there."""
    path = work / f"token_solver-{SMALL.fingerprint()}-{seed}.json"
    if not path.exists():
        path.write_text(json.dumps(of_seed(seed, work, pictures)))
    rows: list[dict[str, Any]] = json.loads(path.read_text())
    return rows


def of_seed(seed: int, work: Path, pictures: Path) -> list[dict[str, Any]]:
    """All methods at all budgets, for both trainings."""
    task = load_task(SMALL, seed, (3, 64))
    backbone = dense_backbone(SMALL, seed, task, work / f"dense-{SMALL.dense_fingerprint()}-{seed}.pt")
    start, dense = Start(backbone, SMALL, seed, task), dense_macs_of(backbone) / 1e9
    write_pictures(task.test.images[:CHOSEN_ON], pictures)
    rest = Arrays(task.test.images[CHOSEN_ON:], task.test.labels[CHOSEN_ON:])
    rows = []
    for name, shares in TRAINED.items():
        began = time.perf_counter()
        model, table = trained(start, tuple(share * dense for share in shares))
        print(f"seed {seed}, {name}: {time.perf_counter() - began:.0f} s", flush=True)
        for share in SHARES:
            found = chosen(model, table, share * dense, pictures)
            for method, (keep, more) in found.items():
                judged = judge(model, table, keep, share * dense, rest, task)
                rows.append(
                    {"seed": seed, "training": name, "share": share, "method": method, "keep": list(keep)}
                    | judged
                    | more
                )
    return rows


def trained(start: Start, budgets: tuple[float, ...]) -> tuple[ToFe, list[Measured]]:
    """A trained model and its table, settled on training images as `train` does."""
    contender = tofe(start, budgets)
    assert contender.objective is not None  # there is something to train
    train(contender.objective, contender.recipe, start.task.train, start.task.classes)
    model = cast(ToFeObjective, contender.objective).student.eval().cpu()
    measured = list(in_order(start.task.measured, 250))
    return model, [settled.row for settled in settle(model, contender.recipe, measured, measured)]


def write_pictures(images: Tensor, folder: Path) -> None:
    """Save images (n, 3, H, W) in [-1, 1] as files without labels."""
    folder.mkdir()
    levels = ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    for index, pixels in enumerate(levels):
        Image.fromarray(pixels).save(folder / f"{index:04}.png")


def chosen(
    model: ToFe, table: Sequence[Measured], budget: float, pictures: Path
) -> dict[str, tuple[tuple[int, ...], dict[str, Any]]]:
    """Keep counts by every method; "found" is the search's best, "kept" what survives its confirmation."""
    cost = model.cost()
    found: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
        "profile": (solve(cost, budget, table).keep, {}),
        "paper": (fill_budget(cost, PAPER_PROFILE, budget), {}),
    }
    target = Target.of_budget(cost, budget, table)
    stream = ImageStream(select(pictures, CHOSEN_ON), PREPROCESSING, batch=75).check()
    for against in AGAINST:
        began = time.perf_counter()
        solved = solve_tokens(model, Images.of(stream), target, against=against)
        more = {"seconds": time.perf_counter() - began, "candidates": len(solved.candidates)}
        found[f"found, {against}"] = (solved.candidates[0].keep, more)
        found[f"kept, {against}"] = (solved.keep, more | {"changed": solved.changed})
    return found


@torch.inference_mode()
def judge(
    model: ToFe, table: Sequence[Measured], keep: Sequence[int], budget: float, rest: Arrays, task: Task
) -> dict[str, float]:
    """Accuracy, agreement and divergences on images that nobody saw."""
    model.set_budget(budget)
    baseline = solve(model.cost(), budget, table).keep
    training = [task.measured.images[:CHOSEN_ON]]
    thresholds = settle_thresholds(model, training, baseline, budget, lambda text: None)
    dense: Tensor = model.backbone.dense(rest.images)
    adaptive = masked_forward(model, rest.images, above(thresholds.values)).output
    answer: Tensor = model(rest.images, StaticFreezer(keep))
    right: Callable[[Tensor], float] = lambda logits: float(  # noqa: E731 - used thrice, here only
        (logits.argmax(dim=1) == rest.labels).double().mean()
    )
    return {
        "accuracy": right(answer),
        "dense_accuracy": right(dense),
        "adaptive_accuracy": right(adaptive),
        "kl_dense": float(divergence(answer, dense, True).mean()),
        "kl_adaptive": float(divergence(answer, adaptive, True).mean()),
    }


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds."""
    found = []
    for training in TRAINED:
        for share in SHARES:
            for method in METHODS:
                same = [
                    row
                    for row in rows
                    if (row["training"], row["share"], row["method"]) == (training, share, method)
                ]
                numbers = {
                    key: float(np.mean([row[key] for row in same]))
                    for key in ("accuracy", "dense_accuracy", "adaptive_accuracy", "kl_dense", "kl_adaptive")
                }
                keeps = ["/".join(map(str, row["keep"])) for row in same]
                label = {"training": training, "share": share, "method": method, "keep": keeps}
                found.append(label | numbers)
    return found


def table(summary: Sequence[dict[str, Any]]) -> str:
    """A row per training, budget and method, against the dense model."""
    labels = {
        "profile": "as exported without",
        "paper": "paper's ratios scaled",
        "kept, dense": "`calibrate`",
    }
    lines = [
        "| trained for | budget | method | counts of 64 | accuracy | KL to dense |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary:
        if row["method"] in labels:
            counts = row["keep"][:1] if len(set(row["keep"])) == 1 else row["keep"]
            trained_for = row["training"].removeprefix("trained for ")
            cells = [trained_for, f"{row['share']:.1%}", labels[row["method"]], ", ".join(counts)]
            lines.append(f"| {' | '.join(cells)} | {row['accuracy']:.1%} | {row['kl_dense']:.4f} |")
    return "\n".join(lines)


def print_summary(summary: Sequence[dict[str, Any]]) -> None:
    """One line per training, budget and method."""
    for row in summary:
        print(
            f"{row['training']:24} {row['share']:.3f}  {row['method']:16} {row['accuracy']:7.2%} "
            f"(dense {row['dense_accuracy']:.2%}, adaptive {row['adaptive_accuracy']:.2%})  "
            f"KL {row['kl_dense']:.4f} / {row['kl_adaptive']:.4f}  {'  '.join(row['keep'])}"
        )


if __name__ == "__main__":
    main()
