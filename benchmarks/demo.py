"""`make demo`: from pictures to a verified bundle, with a model small enough for two cores.

A vision transformer is trained from scratch on scikit-learn's digits, then the commands that a user would
type run and are printed: `train` for two budgets, `onnx`, `verify` with accuracy. The table at the end says
what the two budgets cost and keep. It shows the mechanism at work; it says nothing about ImageNet.
"""

from __future__ import annotations

import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dense import draw, save_weights, train_dense
from PIL import Image
from sklearn.datasets import load_digits

from tofe_export.bundle import Bundle
from tofe_export.model.backbone import create_backbone
from tofe_export.runtime.session import Session
from tofe_export.training.data import open_data
from tofe_export.training.recipe import Recipe

NAME = "vit_tiny_patch16_224"
SIDE = 14  # pixels: 7 x 7 patches of 2 x 2
ARGUMENTS = {"patch_size": 2, "embed_dim": 48, "depth": 6, "num_heads": 3}
MODEL = f"--model {NAME} --image-size {SIDE} --crop 1.0 " + " ".join(
    f"--model-arg {key}={value}" for key, value in ARGUMENTS.items()
)
BUDGETS = "0.005,0.007"
TEST = 450
DENSE = Recipe(
    epochs=7, batch_size=32, lr=2e-3, min_lr=2e-5, warmup_epochs=1, clip_grad=1, ema=0.99, augment="none"
)
TOFE = (
    "--epochs 8 --fixed-epochs 1 --batch-size 32 --lr 3e-3 --min-lr 2e-5 --backbone-lr-scale 0.3 --ema 0.98 "
    "--budget-control multiplier --augment none"
)
REPEATS = 100


def main() -> int:
    """Run the demo; returns the exit code of the first command that fails."""
    torch.set_num_threads(1)  # tensors this small are slower on several, much slower on a busy machine
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_digits(work / "digits")
        train_backbone(work)
        steps = (
            f"train {MODEL} --backbone backbone.pth --data digits --budget {BUDGETS} {TOFE} --workers 0 "
            "--cpu --out digits.pt",
            f"onnx --ckpt digits.pt --budget {BUDGETS} --precision fp32 --images digits/val --num-images 32",
            "verify --images digits/val --ckpt digits.pt --json report.json",
        )
        for step in steps:
            if status := run(f"tofe-export {step}", work):
                return status
        print(f"\n{table(work)}")
        return 0


def write_digits(folder: Path) -> None:
    """Save scikit-learn's 8 x 8 digits as pictures: train/ and val/, one sub-folder per class."""
    digits = load_digits()
    for place, index in enumerate(np.random.default_rng(0).permutation(len(digits.target))):
        part = folder / ("val" if place < TEST else "train") / str(digits.target[index])
        part.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[index] * (255 / 16)).astype(np.uint8)
        picture = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.convert("RGB").save(part / f"{index}.png")


def train_backbone(work: Path) -> None:
    """Train the dense model from scratch and save its plain weights as backbone.pth."""
    begin = time.perf_counter()
    backbone = create_backbone(NAME, {"img_size": SIDE, "num_classes": 10, **ARGUMENTS})
    draw(backbone, seed=0)
    preprocessing = replace(backbone.preprocessing(), crop=1.0)
    data = open_data(str(work / "digits"), preprocessing, DENSE, noise_shape=(0, 0))
    print(f"a backbone from scratch on {len(data.train)} digits, {len(data.held_out)} held out", flush=True)
    save_weights(train_dense(backbone, data.train, DENSE, cpu=True), work / "backbone.pth")
    print(f"{DENSE.epochs} epochs, {time.perf_counter() - begin:.0f} s", flush=True)


def run(command: str, folder: Path) -> int:
    """Print a command and run it as the installed program would."""
    print(f"\n$ {command}", flush=True)
    words = shlex.split(command)[1:]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "tofe_export.cli", *words]
    return subprocess.run(line, cwd=folder, env=environment).returncode


def table(work: Path) -> str:
    """One line per variant: cost, accuracy in PyTorch and in ONNX Runtime, latency."""
    report: dict[str, Any] = json.loads((work / "report.json").read_text())
    accuracy = {entry["name"]: entry for entry in report["accuracy"]}
    bundle = Bundle.open(work / "tofe_bundle")
    lines = [f"{'variant':28}{'GMACs':>9}{'keep of 49':>13}{'PyTorch':>10}{'ONNX':>9}{'latency':>11}"]
    for variant in bundle.manifest.variants:
        keep = "/".join(map(str, variant.keep)) if variant.keep else "all"
        found = accuracy[variant.name]
        lines.append(
            f"{variant.name:28}{variant.gmacs:>9.5f}{keep:>13}{found['pytorch']['top1']:>10.2%}"
            f"{found['top1']:>9.2%}{latency_ms(bundle, variant.name):>8.2f} ms"
        )
    return "\n".join(lines) + f"\ntop-1 of {TEST} held-out digits; latency: median of {REPEATS}, batch 1, CPU"


def latency_ms(bundle: Bundle, name: str) -> float:
    """Median milliseconds of one picture in ONNX Runtime, after warming up."""
    images = np.zeros((1, 3, SIDE, SIDE), np.float32)
    times = []
    with Session.open(bundle, name) as session:
        for _ in range(REPEATS + 10):
            begin = time.perf_counter()
            session.infer({"images": images})
            times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times[10:])


if __name__ == "__main__":
    sys.exit(main())
