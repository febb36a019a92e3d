"""A training in a process of its own, for tests that kill it or run it twice.

    python fit_process.py '{"out": "weights.pt", ...}'

Trains a small ToFe on noise and prints one JSON line per step; keys as read in `main`. The weights go to
`out`, which a killed process does not get to write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tofe_export.budget import dense_macs
from tofe_export.model.backbone import create_backbone
from tofe_export.model.tofe import Structure, ToFe
from tofe_export.training.log import JsonLog
from tofe_export.training.loop import StepReport, fit
from tofe_export.training.mixing import Mixing
from tofe_export.training.recipe import Recipe
from tofe_export.training.samples import ArraySamples
from tofe_export.training.session import create_accelerator, leave, mean_over
from tofe_export.training.tofe_objective import ToFeObjective

CLASSES = 5
SMALL = {"img_size": 64, "depth": 4, "embed_dim": 48, "num_heads": 3, "num_classes": CLASSES}


def student(drop_path: float) -> ToFe:
    torch.manual_seed(0)
    backbone = create_backbone("deit_tiny_patch16_224", SMALL | {"drop_path_rate": drop_path})
    return ToFe(backbone, Structure((1, 2, 3), conditioned=True))


def data(model: ToFe, seed: int, images: int = 44) -> ArraySamples:
    random = torch.Generator().manual_seed(1)
    pictures = torch.randn(images, 3, *model.backbone.image_size, generator=random)
    targets = torch.randint(CLASSES, (images,), generator=random)
    return ArraySamples(pictures, targets, seed, (model.stages, model.backbone.tokens))


def teller(log: JsonLog | None) -> Callable[[StepReport], None]:
    def tell(report: StepReport) -> None:
        if log:
            log(report)
        print(json.dumps(report.to_json()), flush=True)

    return tell


def main(arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    model = student(arguments.get("drop_path", 0.0))
    dense = dense_macs(model.cost()) / 1e9
    recipe = Recipe(budgets=(0.5 * dense, 0.7 * dense), **arguments["recipe"])
    accelerator = create_accelerator(recipe, cpu=True)
    resume = arguments.get("resume", False)
    log = JsonLog(Path(arguments["log"]), every=1, resume=resume) if "log" in arguments else None
    fitted = fit(
        ToFeObjective(model, recipe, CLASSES, mean_over(accelerator)),
        recipe,
        data(model, recipe.seed),
        accelerator,
        mix=Mixing(recipe, CLASSES, accelerator.num_processes),
        workers=arguments.get("workers", 0),
        state_path=Path(arguments["state"]) if "state" in arguments else None,
        save_every_s=arguments.get("save_every_s", 600),
        resume=resume,
        on_step=teller(log),
    )
    if accelerator.is_main_process:
        torch.save(fitted.weights, arguments["out"])
    leave(accelerator)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
