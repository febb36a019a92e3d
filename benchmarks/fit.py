"""`fit` against training, against ToMe, and against chance, on scikit-learn's digits or on CIFAR-10.

    python benchmarks/fit.py [--size small] [--seeds 0,1,2] [--images 256,1024,4096]
    python benchmarks/fit.py --size medium --data CIFAR10 [--images 256,1024,4096]
    python benchmarks/accuracy/run.py --size SIZE --arms tofe --seeds 0 \\
        --out benchmarks/results/fit_trained_SIZE.json
    python benchmarks/fit.py [--size medium] --table

The setting, the dense backbones and the trained opponents (third line; the table reads that file) are those
of the accuracy experiment; with --work it must be the same folder, so that all start from the same backbones.
Digits has 898 training images; more would be copies of them, moved by up to two pixels as in training.
Everything is judged on the test images: accuracy, and the divergence from and agreement with the dense model.
ToMe gets the MACs that the model fitted on most images really executes: as it is, and tuned on the same
images by the same steps as `fit`. On most images `fit` is also run with selections at the paper's locations.
Seconds are those of the processor, on one thread. Writes `results/fit_SIZE.json` after every run, so that it
may be stopped; --table prints what is there as Markdown.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import machine
import torch
from accuracy.contender import Start
from accuracy.controls import FixedPattern, dense_macs_of
from accuracy.results import Results
from accuracy.rivals.reduced import Reduced
from accuracy.rivals.tome import ToMe
from accuracy.run import WORK
from accuracy.settings import SIZES, Size
from accuracy.tasks import load_task
from accuracy.training import dense_backbone, fresh_backbone
from torch import Tensor

from tofe_export.budget import gmacs, macs, macs_executed, printed
from tofe_export.calibration.divergence import divergence
from tofe_export.fitting.fit import Done, Options, fit
from tofe_export.fitting.locations import Choice, candidates, choose, moved
from tofe_export.fitting.original import Original
from tofe_export.fitting.tune import learn
from tofe_export.model.freezer import StaticFreezer
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.training.seeding import LIMIT, permutation

LOWERING = "scatter"
BATCH, JUDGING = 32, 4
LABELS = {
    "modules": "fit: closed form alone",
    "counts": "fit: + counts by measurement",
    "blocks": "fit: + blocks refitted",
    "tune": "fit",
    "default": "fit, at the paper's locations",
    "tome tuned": "ToMe, tuned likewise",
    "trained": "ToFe, trained with labels",
    "tome": "ToMe, off the shelf",
    "random": "identity, random selection",
}
IMAGES = (256, 1024, 4096)
TRAINED_ON = {"small": ("Digits", 898), "medium": ("CIFAR-10", 50_000)}
Row = dict[str, Any]


class Test:
    """The test images, and the dense model's answers to them."""

    def __init__(self, start: Start) -> None:
        self.images, self.labels = start.task.test
        with torch.inference_mode():
            self.dense = torch.cat([start.dense.dense(part) for part in self.images.split(250)])

    @torch.inference_mode()
    def judge(self, answers: Sequence[Tensor]) -> Row:
        """Figures of the answers to all images, in order."""
        answer = torch.cat(list(answers))
        return {
            "accuracy": float((answer.argmax(1) == self.labels).double().mean()),
            "agreement": float((answer.argmax(1) == self.dense.argmax(1)).double().mean()),
            "divergence": float(divergence(answer, self.dense, True).mean()),
        }

    def of_dense(self) -> Row:
        """The model that all answers are compared with."""
        return self.judge([self.dense])

    def of_model(self, model: ToFe, keep: tuple[int, ...]) -> Row:
        """A ToFe model with static counts."""
        freezer = StaticFreezer(keep)
        with torch.inference_mode():
            row = self.judge([model(part, freezer) for part in self.images.split(250)])
        cost = model.cost()
        executed = gmacs(macs_executed(cost, keep, LOWERING))
        return row | {"keep": list(keep), "gmacs": gmacs(macs(cost, keep)), "executed": executed}

    def of_rival(self, model: Reduced) -> Row:
        """A neighbour or a control."""
        with torch.inference_mode():
            row = self.judge([model(part) for part in self.images.split(250)])
        price = model.macs() / 1e9
        return row | {"keep": list(model.kept()), "gmacs": price, "executed": price}


def main() -> None:
    """Run what is missing, or print the table."""
    options = _options()
    size, path = SIZES[options.size], machine.RESULTS / f"fit_{options.size}.json"
    rows: list[Row] = json.loads(path.read_text())["rows"] if path.exists() else []
    if options.table:
        print("\n".join(table(rows, size)))
        return
    torch.set_num_threads(1)
    for seed in options.seeds or size.seeds[:3]:
        start = start_of(size, seed, options.work, options.data)
        for share in options.shares or size.budgets:
            for count in sorted(options.images or IMAGES, reverse=True):
                if any((row["seed"], row["share"], row["images"]) == (seed, share, count) for row in rows):
                    continue
                new = list(run(start, share, count))
                rows = json.loads(path.read_text())["rows"] if path.exists() else []  # others may add to it
                rows += new if not _rivals(rows, seed, share) else [row for row in new if row["images"]]
                machine.write(path.stem, {"settings": size.to_json(), "lowering": LOWERING, "rows": rows})
                print(seed, share, count, *(f"{r['arm']} {r['divergence']:.4f}" for r in new), flush=True)


def start_of(size: Size, seed: int, work: Path, data: Path | None) -> Start:
    """Data and dense backbone of a seed, as the accuracy experiment has them."""
    plain = fresh_backbone(size, seed)
    task = load_task(size, seed, (len(plain.locations), plain.tokens), data)
    dense = dense_backbone(size, seed, task, work / f"{size.dense_fingerprint()}-seed{seed}.pt")
    return Start(dense.requires_grad_(False), size, seed, task)


def run(start: Start, share: float, count: int) -> Iterator[Row]:
    """Fit at one budget from `count` unlabelled training images, and its opponents."""
    test = Test(start)
    budget = float(printed(share * dense_macs_of(start.dense) / 1e9))
    key: Row = {"seed": start.seed, "share": share, "budget_gmacs": budget}
    pool, judging = unlabelled(start, count)
    images, held_out = list(pool[~judging].split(BATCH)), list(pool[judging].split(BATCH))
    began = time.process_time()
    model = ToFe(start.backbone(), Structure(start.dense.locations))
    places = candidates(len(start.dense.blocks), start.dense.locations)
    choice = choose(model, places, images, budget, seed=start.seed)
    taken = time.process_time() - began
    steps = list(fitted(start, choice, (images, held_out), budget, test, taken))
    executed = steps[-1]["executed"] * 1e9
    yield from (key | {"images": count} | step for step in steps)
    if count == IMAGES[-1]:
        default = Choice(start.dense.locations, {})
        *_, last = fitted(start, default, (images, held_out), budget, test, 0.0)
        yield key | {"images": count} | last | {"arm": "default"}
    tome = ToMe.for_macs(start.backbone(), executed)
    none = key | {"images": 0, "seconds": 0.0}
    yield none | {"arm": "dense"} | test.of_dense()
    yield none | {"arm": "tome"} | test.of_rival(tome)
    if count == IMAGES[-1]:
        yield key | {"arm": "tome tuned", "images": count} | tuned_tome(tome, start, images, test)
    pattern = FixedPattern.for_macs(start.backbone(), start.dense.locations, "random", executed)
    yield none | {"arm": "random"} | test.of_rival(pattern)


def fitted(
    start: Start,
    choice: Choice,
    images: tuple[Sequence[Tensor], Sequence[Tensor]],
    budget: float,
    test: Test,
    taken: float,
) -> Iterator[Row]:
    """Every step of fitting a fresh model with selections at the chosen locations, judged."""
    model = moved(ToFe(start.backbone(), Structure(start.dense.locations)), choice.locations, start.seed)
    steps: list[Row] = []
    clock = [time.process_time(), taken]  # since when, and spent so far

    def told(done: Done) -> None:
        clock[1] += time.process_time() - clock[0]
        row = {"arm": done.name, "taken": done.taken, "seconds": clock[1]}
        steps.append(row | test.of_model(model, done.keep))
        clock[0] = time.process_time()

    found = fit(model, *images, budget, Options(seed=start.seed), told=told)
    facts = {"selectors": found.way.name, "dense_now": found.dense._asdict(), "locations": choice.to_json()}
    yield from steps[:-1]
    yield steps[-1] | facts


def tuned_tome(tome: ToMe, start: Start, images: Sequence[Tensor], test: Test) -> Row:
    """ToMe after as many steps towards the dense model's answers, on the same images, as `fit` takes."""
    began, random = time.process_time(), torch.Generator().manual_seed(start.seed)
    learn(
        tome,
        list(tome.parameters()),
        Original(start.dense),
        images,
        Options().steps,
        random,
        lambda text: None,
    )
    return {"seconds": time.process_time() - began} | test.of_rival(tome)


def unlabelled(start: Start, count: int) -> tuple[Tensor, Tensor]:
    """Training images in a drawn order, and which of them judge.

    Beyond all of them come copies, moved as training moves them; a copy judges where its original does.
    """
    samples = start.task.train
    order = permutation(len(samples.images), LIMIT, start.seed).tolist()
    rounds = [divmod(place, len(order)) for place in range(count)]
    images = [
        samples[(epoch, order[place])].image if epoch else samples.images[order[place]]
        for epoch, place in rounds
    ]
    return torch.stack(images), torch.tensor([place % JUDGING == JUDGING - 1 for _, place in rounds])


def _rivals(rows: Sequence[Row], seed: int, share: float) -> bool:
    return any((row["seed"], row["share"], row["images"]) == (seed, share, 0) for row in rows)


def table(rows: Sequence[Row], size: Size) -> Iterator[str]:
    """Means over seeds, one table per budget, with the trained model's accuracy beside them."""
    records = Results(machine.RESULTS / f"fit_trained_{size.name}.json", size).records
    seeds = sorted({row["seed"] for row in rows})
    dense = {row["seed"]: row["accuracy"] for row in rows if row["arm"] == "dense"}
    rows = [row for row in rows if row["arm"] != "dense"]
    task, trained_on = TRAINED_ON[size.name]
    yield f"{task}, seeds {', '.join(map(str, seeds))}; dense accuracy {_percent(list(dense.values()))} %."
    for share in sorted({row["share"] for row in rows}):
        here = [row for row in rows if row["share"] == share]
        yield from ("", f"**{share:.1%} of the dense cost, {here[0]['budget_gmacs']} GMACs**", "")
        yield "| | images | accuracy % | same class as dense % | divergence | GMACs executed | CPU s |"
        yield "|---|---|---|---|---|---|---|"
        for arm, count in dict.fromkeys((row["arm"], row["images"]) for row in _ordered(here)):
            yield _line(arm, count, [r for r in here if (r["arm"], r["images"]) == (arm, count)], seeds)
        trained = [r for r in records if (r.arm, r.share, r.mode) == ("tofe", share, "static")]
        if trained := [r for r in trained if r.seed in seeds]:
            accuracy = _percent([r.accuracy for r in trained])
            yield f"| {LABELS['trained']} | {trained_on} | {accuracy} | | | | |"


def _line(arm: str, count: int, rows: Sequence[Row], seeds: Sequence[int]) -> str:
    undone, there = sum(not row.get("taken", True) for row in rows), sorted({row["seed"] for row in rows})
    notes = [f"{undone} of {len(rows)} undone"] if undone else []
    places = {"/".join(map(str, row["locations"]["chosen"])) for row in rows if "locations" in row}
    if places and arm == "tune":
        notes.append(f"before blocks {' or '.join(sorted(places))}")
    if there != list(seeds):
        notes.append(f"seed {', '.join(map(str, there))} only")
    note = f" ({'; '.join(notes)})" if notes else ""
    figures = [_percent([row[name] for row in rows]) for name in ("accuracy", "agreement")]
    loss, executed = mean(row["divergence"] for row in rows), mean(row["executed"] for row in rows)
    seconds = f"{mean(row['seconds'] for row in rows):.0f}" if count else ""
    cells = [LABELS[arm] + note, str(count or ""), *figures, f"{loss:.4f}", f"{executed:.5f}", seconds]
    return f"| {' | '.join(cells)} |"


def _ordered(rows: Sequence[Row]) -> list[Row]:
    """Fits by number of images and step, then the others."""
    arms = list(LABELS)
    return sorted(rows, key=lambda row: (not row["images"], row["images"], arms.index(row["arm"])))


def _percent(shares: Sequence[float]) -> str:
    return f"{100 * mean(shares):.2f}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = lambda text: [int(part) for part in text.split(",")]  # noqa: E731 - a type of argparse
    parser.add_argument("--size", choices=sorted(TRAINED_ON), default="small")
    parser.add_argument("--data", type=Path, help="CIFAR-10, for --size medium")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of dense backbones")
    parser.add_argument("--seeds", type=numbers, help="default: the first three of the size")
    parser.add_argument("--shares", type=lambda text: [float(part) for part in text.split(",")])
    parser.add_argument("--images", type=numbers, help="default: 256,1024,4096")
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
