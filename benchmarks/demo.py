"""`make demo`: the whole way on a small model and scikit-learn's digits, in a temporary folder.

Runs the commands that a user would type and prints them: `init`, `onnx` for two budgets, `verify`. There is
no training yet, so the model is untrained: what the demo proves is the export, not accuracy.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

MODEL = "--model deit_tiny_patch16_224 --image-size 32 --num-classes 10 --model-arg patch_size=4"


def main() -> int:
    """Run the demo; returns verify's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_digits(work / "digits", per_class=6)
        (work / "classes.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
        run(f"tofe-export init {MODEL} --classes classes.txt --crop 1.0 --out digits.pt", work)
        run("tofe-export onnx --ckpt digits.pt --budget 0.15,0.22 --images digits --num-images 24", work)
        status = run("tofe-export verify --json report.json", work)
        return status or summarise(work)


def write_digits(folder: Path, per_class: int) -> None:
    """Save some of scikit-learn's 8 x 8 digits as 32 x 32 pictures, one sub-folder per class."""
    digits = load_digits()
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
        for number, index in enumerate(np.flatnonzero(digits.target == digit)[:per_class]):
            pixels = (digits.images[index] * (255 / 16)).astype(np.uint8)
            picture = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
            picture.convert("RGB").save(folder / str(digit) / f"{number}.png")


def run(command: str, folder: Path) -> int:
    """Print a command and run it as the installed program would."""
    print(f"\n$ {command}", flush=True)
    words = shlex.split(command)[1:]
    return subprocess.run([sys.executable, "-m", "tofe_export.cli", *words], cwd=folder).returncode


def summarise(work: Path) -> int:
    """One table: what each variant runs, and how closely it matches PyTorch."""
    manifest = json.loads((work / "tofe_bundle" / "manifest.json").read_text())
    report = json.loads((work / "report.json").read_text())
    worst = {variant["name"]: variant["output"]["worst"] for variant in report["variants"]}
    print(f"\n{'variant':26}{'GMACs run':>10}{'keep':>14}{'worst difference to PyTorch':>30}")
    for variant in manifest["variants"]:
        keep = "/".join(map(str, variant["keep"])) if variant["keep"] else "all"
        difference = f"{worst[variant['name']]:.1e} of the range"
        gmacs = variant["gmacs_executed"]
        print(f"{variant['name']:26}{gmacs:>10.3f}{keep:>14}{difference:>30}")
    print("\nEvery graph matches PyTorch. The model is untrained: its answers mean nothing yet.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
