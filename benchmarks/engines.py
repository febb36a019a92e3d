"""Real engines, end to end, on this machine's GPU with this machine's TensorRT (8.6 or newer).

    python benchmarks/engines.py [--work DIR] [--minutes 25]

It exports DeiT-S (dense, 2.0 and 3.0 GMACs) and LV-ViT-S (dense, 3.3) in both static lowerings, fp32 and
fp16, batch 1, 8 and 128, with drawn weights (`drawn.py`: speed and parity can be judged, accuracy cannot),
and runs the product's own commands on them: `trt` (with probes at the smallest batch), `verify` in the
three-way view, `bench` with and without a CUDA graph. It keeps what TensorRT's inspector says and what
TensorRT answers to planted faults, and writes `results/engines_<gpu>_<tensorrt>.json` after every step. A
step that fails is recorded and hides no other; what was not tried is listed as such. Start it again to go on:
finished steps are kept in DIR/state.json. Without a usable GPU and TensorRT it says why, writes no result,
and exits with 5.

Two halves on two machines, or in two Pythons: only the exports need torch, timm and onnx.

    python benchmarks/engines.py --export-only --bundles DIR     where those are
    python benchmarks/engines.py --bundles DIR                   where TensorRT is (or --host-python PYTHON)

A machine without network, the library in parts: copy this repository, the parts and the bundles there. Join
the parts (`cat parts.* | xz -d | tar -x`) and start this file with the Python that the library is made for,
PYTHONPATH naming the checkout. That Python needs click, numpy and Pillow; libcudart of CUDA 12 (the wheel
nvidia-cuda-runtime-cu12, unpacked beside them, is found); and onnxruntime with flatbuffers, packaging and
protobuf for the three-way view. Bundles with drawn weights do not compress: where the machine has torch, timm
and onnx, export there by --host-python, which may be a script that sets PYTHONPATH and starts one. If it is
there for minutes only, give --minutes, and bring DIR/state.json, DIR/timing.cache and the result file back;
put the first two there next time: finished steps are skipped, and engines that a remaining step needs are
built again. Records of another GPU or TensorRT are refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import machine
from on_device.commands import EXPORT, LOOK, Ran, Runner, processes
from on_device.document import document, result_name, summary
from on_device.faults import fault_steps, workspace_step
from on_device.records import FAILED, Budget, Records
from on_device.steps import Bench, Step, record_of, steps_of
from on_device.units import Unit, units_of

from tofe_export.errors import TofeError
from tofe_export.fields import Fields
from tofe_export.trt.device import Device

NO_DEVICE = 5
FAULTS = "faults"
EXPORT_LIMIT = 3 * 3600.0  # seconds
LOOK_LIMIT = 300.0
EARLY_UNITS = 2  # measured before the faults: the first model's smallest batch


def main(arguments: Sequence[str] | None = None, runner: Runner | None = None) -> int:
    """0: every step is done; 1: some are not; 5: no usable GPU and TensorRT; 6: nothing could be exported."""
    given = parse(arguments)
    run = runner or processes(given.host_python)
    given.work.mkdir(parents=True, exist_ok=True)
    budget = Budget(None if given.minutes is None else given.minutes * 60)
    records = Records(given.work)
    if not given.export_only:
        platform = look(run, given.work)
        if not platform["usable"]:
            return NO_DEVICE
        records.settle({"tensorrt": platform["tensorrt"], "device": platform["device"]})
    export_missing(run, records, given, budget)
    bundles = [given.bundles / name for name in given.models]
    bundles = [path for path in bundles if (path / "manifest.json").is_file()]
    if given.export_only or not bundles:
        return 0 if len(bundles) == len(given.models) else 6
    bench = Bench(run, given.work, records, given.seconds)
    steps = all_steps(bench, units_of(bundles, given.batches, given.precisions), given.bundles / FAULTS)
    settings = {"batches": given.batches, "precisions": given.precisions, "bench_seconds": given.seconds}

    def save() -> dict[str, Any]:
        facts = document(records, steps, bundles, settings)
        slug = Device.read(Fields(platform["device"], "device")).slug
        machine.write(result_name(platform, slug), facts)
        return facts

    work_off(steps, records, budget, given.step_minutes * 60, given.again, save)
    facts = save()
    print(summary(facts), flush=True)
    return 0 if facts["complete"] else 1


def look(run: Runner, work: Path) -> dict[str, Any]:
    """What the machine has; said, and kept in the work folder whatever it is."""
    ran = run(LOOK, ["platform"], LOOK_LIMIT)
    try:
        found: dict[str, Any] = json.loads(ran.stdout)
    except ValueError:
        found = {"usable": False, "reason": ran.reason}
    (work / "platform.json").write_text(json.dumps(found, indent=1) + "\n")
    if found["usable"]:
        print(f"TensorRT {found['tensorrt']} on {found['device']['gpu']}", flush=True)
        return found
    print("no engine can be built here, and no result is written:", file=sys.stderr)
    for key in ("reason", "builder"):
        if found.get(key):
            print(f"  {key}: {found[key]}", file=sys.stderr)
    return found


def export_missing(run: Runner, records: Records, given: argparse.Namespace, budget: Budget) -> None:
    """Export each model whose bundle is not there, and the faults."""
    options = ["--out", str(given.bundles)]
    sizes = ["--batches", ",".join(map(str, given.batches)), "--precisions", ",".join(given.precisions)]
    for name in (*given.models, FAULTS):
        folder = given.bundles / name / ("unnamed-outputs" if name == FAULTS else "")  # the last one written
        if (folder / "manifest.json").is_file():
            continue
        print(f"exporting {name} ...", flush=True)
        ran: Ran = run(EXPORT, [name, *options, *sizes], min(budget.left, EXPORT_LIMIT))
        records.put(f"export {name}", record_of("export", ran, None, [EXPORT, name]))
        if ran.exit_code != 0:
            print(f"  failed: {ran.reason}", flush=True)


def all_steps(bench: Bench, units: Sequence[Unit], faults: Path) -> list[Step]:
    """In the order in which they are worth most if the time runs out."""
    early = [step for unit in units[:EARLY_UNITS] for step in steps_of(bench, unit)]
    late = [step for unit in units[EARLY_UNITS:] for step in steps_of(bench, unit)]
    dense = [unit for unit in units if unit.dense and unit.bundle == units[0].bundle]
    last = [workspace_step(bench, max(dense, key=lambda unit: unit.batch))] if dense else []
    return [*early, *fault_steps(bench, faults), *late, *last]


def work_off(
    steps: Sequence[Step],
    records: Records,
    budget: Budget,
    longest: float,
    again: bool,
    save: Callable[[], object],
) -> None:
    """Do every step that is due and is expected to fit into the time left."""
    for step in steps:
        if not is_due(step, records, again) or budget.left < records.longest(step.kind):
            continue
        print(f"{step.key} ...", end=" ", flush=True)
        try:
            record = step.act(min(budget.left, longest))
        except (TofeError, OSError, ValueError, KeyError, IndexError, StopIteration) as error:
            reason = f"{type(error).__name__}: {error}"
            record = {"kind": step.kind, "status": FAILED, "seconds": 0.0, "reason": reason}
        records.put(step.key, record)
        print(f"{record['status']}, {record['seconds']:.0f} s {record.get('reason', '')}", flush=True)
        save()


def is_due(step: Step, records: Records, again: bool) -> bool:
    """Whether a step must be tried: it was not, or its files are gone and a later step needs them."""
    if not records.is_settled(step.key, again):
        return True
    gone = records.is_done(step.key) and any(not path.is_file() for path in step.plans())
    return gone and any(not records.is_settled(key, again) for key in step.followers)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line; lists are split, `bundles` is filled in."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--work", type=Path, default=Path("engines-work"), help="state, timings and bundles")
    add(
        "--bundles",
        type=Path,
        help="exported bundles, one folder per model; made where missing [WORK/bundles]",
    )
    add("--models", default="deit_s,lvvit_s", help="folders in --bundles")
    add("--batches", default="1,8,128", help="those to export and measure")
    add("--precisions", default="fp32,fp16", help="those to export and measure")
    add("--minutes", type=float, help="start no step that is not expected to end in this time")
    add("--step-minutes", type=float, default=20, help="a step that takes longer is stopped")
    add("--seconds", type=float, default=5.0, help="of bench, per comparison")
    add("--host-python", default=sys.executable, help="a Python with torch, timm and onnx, for the exports")
    add("--export-only", action="store_true", help="stop after the exports; needs no GPU")
    add("--again", action="store_true", help="try steps that failed once more")
    given = parser.parse_args(arguments)
    given.work = given.work.resolve()
    given.bundles = (given.bundles or given.work / "bundles").resolve()
    given.models = given.models.split(",")
    given.batches = [int(text) for text in given.batches.split(",")]
    given.precisions = given.precisions.split(",")
    return given


if __name__ == "__main__":
    sys.exit(main())
