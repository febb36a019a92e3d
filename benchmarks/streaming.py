"""Peak memory of a calibration on 500 and on 50,000 pictures, each in a process of its own.

Pictures and model are tiny, so that what grows with their number would show. Three cases: the stream alone
(sample, hash of all contents, two passes), a whole calibration of a checkpoint (tokens and thresholds), and
INT8 variants of its graphs (ranges by `percentile`, whose histograms are the most that any method keeps).
Peaks are of resident memory; libraries take most of it, so the growth beside a process that calibrated on 100
pictures is shown too.

    python benchmarks/streaming.py [--cases stream,checkpoint,int8] [--counts 500,50000]

A case that is not measured keeps its earlier result.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import machine
import numpy as np
from PIL import Image

if TYPE_CHECKING:  # imports in the functions: what one case needs would count for the others
    from tofe_export.calibration.stream import ImageFacts, ImageStream
    from tofe_export.model.checkpoint import Checkpoint

SIDE = 12  # pixels of a picture
FEW = 100
CASES = ("stream", "checkpoint", "int8")
PICTURES, BUNDLE = "pictures", "bundle"
ARGUMENTS = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 1, "num_classes": 4}


def main() -> None:
    """Write the pictures, measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", default="500,50000", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--cases", default=CASES, type=lambda text: tuple(text.split(",")))
    parser.add_argument("--child", nargs=3, metavar=("CASE", "FOLDER", "COUNT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        case, folder, count = arguments.child
        if case == BUNDLE:
            export_to(Path(folder) / BUNDLE)
            return
        print(json.dumps(measure(case, Path(folder), int(count))))
        return
    figures = earlier()
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder) / PICTURES, max(arguments.counts))
        for case in arguments.cases:
            if case == "int8":
                child(BUNDLE, folder, 0)  # its own process: what an export needs is not a calibration's
            figures[case] = {str(count): child(case, folder, count) for count in (FEW, *arguments.counts)}
            for count, found in figures[case].items():
                grown = found["peak_mib"] - figures[case][str(FEW)]["peak_mib"]
                print(
                    f"{case:12} {count:>7} pictures  peak {found['peak_mib']:8.1f} MiB  ({grown:+.1f} MiB)  "
                    f"{found['seconds']:.0f} s",
                    flush=True,
                )
    print("wrote", machine.write("streaming", {"side": SIDE, "model": ARGUMENTS, "cases": figures}))


def earlier() -> dict[str, Any]:
    """The cases of the result file, if there is one."""
    path = machine.RESULTS / "streaming.json"
    found: dict[str, Any] = json.loads(path.read_text())["cases"] if path.exists() else {}
    return found


def write_pictures(folder: Path, count: int) -> None:
    """Small pictures, no two alike, in sub-folders of 1,000."""
    random = np.random.default_rng(0)
    for index in range(count):
        part = folder / f"{index // 1000:03}"
        part.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(part / f"{index:06}.png", compress_level=0)


def child(case: str, folder: str, count: int) -> dict[str, float]:
    """Measure in a new process."""
    line = [sys.executable, __file__, "--child", case, folder, str(count)]
    printed = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(printed.splitlines()[-1]) if case in CASES else {}
    return found


def measure(case: str, folder: Path, count: int) -> dict[str, float]:
    """Peak memory and time of one case, after everything is imported."""
    from tofe_export.calibration.images import select
    from tofe_export.calibration.stream import ImageStream
    from tofe_export.preprocess import Preprocessing

    began = time.perf_counter()
    pre = Preprocessing((16, 16), 1.0, "center", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    stream = ImageStream(select(folder / PICTURES, count), pre)
    if case == "stream":
        stream.check()
        stream.check()
        facts = stream.facts()
    elif case == "checkpoint":
        facts = calibrate(stream)
    else:
        facts = quantize(folder / BUNDLE, stream)
    if facts.count != count:
        raise SystemExit(f"expected {count} pictures, found {facts.count}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mib": round(peak, 1), "seconds": round(time.perf_counter() - began, 1)}


def calibrate(stream: ImageStream) -> ImageFacts:
    """Tokens and thresholds for one budget."""
    from tofe_export.calibration.checkpoint import calibrate_checkpoint, targets_for

    checkpoint, budget = drawn()
    calibrate_checkpoint(checkpoint, stream.check(), targets_for(checkpoint, [budget]))
    return stream.facts()


def quantize(bundle: Path, stream: ImageStream) -> ImageFacts:
    """INT8 variants of all graphs."""
    from tofe_export.bundle import Bundle
    from tofe_export.calibration.int8 import Pictures, Settings, add_int8

    facts = stream.check().facts()
    add_int8(Bundle.open(bundle), Pictures(stream, facts.to_json()), Settings("percentile", 0.0))
    return facts


def export_to(bundle: Path) -> None:
    """The graphs of the drawn model, dense and for its budget."""
    from tofe_export.graph.export import export
    from tofe_export.graph.request import Request

    checkpoint, budget = drawn()
    export(checkpoint, Request((budget,), precisions=("fp32",)), bundle)


def drawn() -> tuple[Checkpoint, float]:
    """A tiny checkpoint with drawn weights, and a budget for it."""
    import torch
    from drawn import enliven

    from tofe_export.budget import dense_macs, gmacs
    from tofe_export.model.build import build_checkpoint

    torch.set_num_threads(1)
    checkpoint = build_checkpoint("vit_tiny_patch16_224", None, arguments=ARGUMENTS)
    enliven(checkpoint.model, seed=0)
    return checkpoint, 0.9 * gmacs(dense_macs(checkpoint.model.cost()))


if __name__ == "__main__":
    main()
