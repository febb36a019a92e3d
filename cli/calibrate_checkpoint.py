"""`tofe-export calibrate --ckpt FILE`: keep counts and thresholds of a checkpoint, chosen on pictures."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from tofe_export.budget import printed
from tofe_export.cli import calibrate_pictures, calibrate_report, console, host, outputs
from tofe_export.errors import UsageError

if TYPE_CHECKING:
    from tofe_export.calibration.targets import Target
    from tofe_export.model.checkpoint import Checkpoint


def calibrate_checkpoint(
    ckpt: Path,
    parts: tuple[str, ...],
    given: dict[str, Any],
    pictures: calibrate_pictures.Given,
    json_target: str | None,
) -> None:
    """Counts and thresholds into the checkpoint's table.

    Raises UsageError, BudgetError and WriteError before anything is computed; ImageError and InputError for
    pictures that are not usable.
    """
    target = where_to_write(ckpt, given["out"], given["force"])
    host.require_export()
    from tofe_export.calibration.checkpoint import calibrate_checkpoint as calibrate
    from tofe_export.cli.eval import find_device

    checkpoint = host.load(ckpt)
    targets = targets_of(checkpoint, given)
    warn_untrained(checkpoint, targets)
    checkpoint.model.to(find_device(given["device"]))
    stream = pictures.open(checkpoint.preprocessing)
    with console.progress("calibrate:") as bar:
        made, found = calibrate(
            checkpoint, stream, targets, parts=parts, against=given["against"], say=bar.show
        )
    made.save(target)
    console.say(calibrate_report.text(found))
    asked = ",".join(printed(one.row.budget_gmacs) for one in found)
    console.say(
        f"\nwrote {target}; export it with: tofe-export onnx --ckpt {quote(str(target))} --budget {asked}"
    )
    console.emit(
        {
            "ckpt": str(ckpt),
            "out": str(target),
            "trained": checkpoint.trained,
            "images": stream.facts().to_json(),
            "results": [one.to_json() for one in found],
        },
        json_target,
    )


def targets_of(checkpoint: Checkpoint, given: dict[str, Any]) -> list[Target]:
    """The budgets, in GMACs or in milliseconds. Raises BudgetError, UsageError and InputError."""
    from tofe_export.calibration.checkpoint import targets_for
    from tofe_export.calibration.targets import Target

    if given["latency"] is None and not given["budgets_ms"]:
        for name in ("lowerings", "batches", "precisions"):
            if given[name]:
                raise UsageError(f"--{name.removesuffix('es').removesuffix('s')} is there for --budget-ms")
        return targets_for(checkpoint, given["budgets"], given["align"])
    if given["budgets"]:
        raise UsageError("give budgets in GMACs (--budget) or in milliseconds (--budget-ms), not both")
    if given["latency"] is None:
        raise UsageError(
            "--budget-ms needs the latencies of the device: --latency TABLE. Measure them: tofe-export "
            f"advise --model {checkpoint.model.backbone.name} --out TABLE"
        )
    if not given["budgets_ms"]:
        raise UsageError("--latency is there for --budget-ms: give that, or leave it out")
    from tofe_export.cli.onnx_latency import entry_for
    from tofe_export.latency.predict import Predictor

    entry = entry_for(checkpoint, given["latency"], given["lowerings"], given["batches"], given["precisions"])
    predictor = Predictor(entry)
    return [
        Target.of_latency(predictor, budget, checkpoint.table, given["align"])
        for budget in given["budgets_ms"]
    ]


def where_to_write(ckpt: Path, out: Path | None, force: bool) -> Path:
    """The checkpoint to write. Raises UsageError where a file would be lost, WriteError where none can be."""
    return outputs.check(out or ckpt, force=force)


def warn_untrained(checkpoint: Checkpoint, targets: list[Target]) -> None:
    """Say which budgets lie outside the range that conditioned selectors were trained for."""
    budgets = [target.plan.budget_gmacs for target in targets]
    if outside := checkpoint.untrained_budgets(budgets):
        console.warn(
            f"budget {', '.join(map(printed, outside))} GMACs: outside the budgets that the selectors were "
            "trained for, so they are extrapolating"
        )
