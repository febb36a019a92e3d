"""Accuracy at equal cost: run what is missing of the experiment and write all results.

    python benchmarks/accuracy/run.py --size small --jobs 2 [--out FILE] [--work DIR] [--data DIR]
    python benchmarks/accuracy/run.py --size full --jobs 1 --data cifar-10-batches-bin

Every run is (arm, budget, seed). Finished runs are in the results file and are not repeated, so the command
may be stopped and started again; dense backbones, from which all runs of a seed start, lie in --work. Each
job is one process with one thread. `report.py` makes the table and the figure of the results.

What this is: a test of the mechanism at a small size. The paper's setting is

    accelerate launch -m tofe_export.cli train --model deit_small_patch16_224 --backbone deit_s.pth \\
        --data imagenet --budget 2.3 --batch-size 1024 --epochs 30 --out deit_s.pt
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))  # the benchmarks, machine.py among them

from accuracy.arms import ARMS, Arm
from accuracy.results import Job, Record, Results, record_of
from accuracy.settings import SIZES, Size

if TYPE_CHECKING:
    from accuracy.contender import Reading


WORK = Path(tempfile.gettempdir()) / "tofe_accuracy"
"""Where dense backbones lie unless said otherwise."""


def main() -> None:
    """Run what is missing."""
    options = _options()
    size = SIZES[options.size]
    results = Results(options.out or Results.default(size), size)
    everything = list(all_jobs(size, options.arms, options.seeds))
    jobs = [job for job in everything if job not in results]
    print(f"{len(everything) - len(jobs)} runs are done, {len(jobs)} are left", flush=True)
    work = partial(run_job, size, options.work, options.data)
    began = time.perf_counter()
    with ProcessPoolExecutor(options.jobs, get_context("spawn"), _one_thread) as pool:
        for number, records in enumerate(_finished(pool, work, jobs), start=1):
            results.add(records)
            first = records[0]
            accuracy = " ".join(f"{record.accuracy:.4f}" for record in records)
            minutes = (time.perf_counter() - began) / 60
            print(
                f"{number:4}/{len(jobs)} {minutes:6.1f} min  {first.arm:18} {first.share or 1:.3f} "
                f"seed {first.seed}  {accuracy}  {first.seconds:.0f} s",
                flush=True,
            )
    print("wrote", results.path)


def all_jobs(
    size: Size, arms: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> Iterator[Job]:
    """Every run of the experiment, seed by seed, the dense backbone of a seed first."""
    for seed in size.seeds if seeds is None else seeds:
        yield Job("backbone", (), seed)
        for arm in ARMS:
            if arms is None or arm.name in arms:
                yield from (Job(arm.name, shares, seed) for shares in shares_of(arm, size))


def shares_of(arm: Arm, size: Size) -> list[tuple[float, ...]]:
    """For which budgets, as shares of the dense cost, an arm runs."""
    if arm.name == "dense":
        return [()]
    if arm.together:
        return [size.budgets]
    return [(share,) for share in (size.budgets if arm.every_budget else size.compared)]


def _finished(
    pool: ProcessPoolExecutor, work: partial[list[Record]], jobs: Sequence[Job]
) -> Iterator[list[Record]]:
    """Results as they come; a backbone comes before the runs that start from it."""
    first = [job for job in jobs if job.arm == "backbone"]
    rest = [job for job in jobs if job.arm != "backbone"]
    rest.sort(key=lambda job: (job.seed, -len(job.shares)))  # the longest first
    for wave in (first, rest):
        futures: list[Future[list[Record]]] = [pool.submit(work, job) for job in wave]
        try:
            yield from (future.result() for future in as_completed(futures))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_job(size: Size, folder: Path, data: Path | None, job: Job) -> list[Record]:
    """One run, in a process of its own pool."""
    from accuracy.contender import Start
    from accuracy.controls import dense_macs_of
    from accuracy.tasks import load_task
    from accuracy.training import dense_backbone, fresh_backbone, judge_dense, run
    from tofe_export.budget import printed

    plain = fresh_backbone(size, job.seed)
    task = load_task(size, job.seed, (len(plain.locations), plain.tokens), data)
    began = time.perf_counter()
    dense = dense_backbone(size, job.seed, task, folder / f"{size.dense_fingerprint()}-seed{job.seed}.pt")
    start = Start(dense, size, job.seed, task)
    if job.arm == "backbone":
        readings = judge_dense(start)
    else:
        whole = dense_macs_of(dense) / 1e9
        budgets = [float(printed(share * whole)) for share in job.shares]
        arm = next(arm for arm in ARMS if arm.name == job.arm)
        began = time.perf_counter()
        readings = run(arm.make(start, budgets), start)
    seconds = time.perf_counter() - began
    return [record_of(job, share, reading, seconds) for share, reading in _with_shares(job, readings)]


def _with_shares(job: Job, readings: Sequence[Reading]) -> Iterator[tuple[float | None, Reading]]:
    """Each reading with the budget it belongs to: equally many for each budget of the run, in order."""
    if not job.shares:
        return ((None, reading) for reading in readings)
    each = len(readings) // len(job.shares)
    return zip((share for share in job.shares for _ in range(each)), readings, strict=True)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time (default 2)")
    parser.add_argument(
        "--out", type=Path, help="results file (default: benchmarks/results/accuracy_SIZE.json)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=WORK,
        help="folder for dense backbones (default: %(default)s)",
    )
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's binary version, for --size full")
    parser.add_argument("--arms", type=lambda text: text.split(","), help="only these, comma-separated")
    parser.add_argument(
        "--seeds", type=lambda text: [int(part) for part in text.split(",")], help="instead of the size's own"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
