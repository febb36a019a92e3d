"""INT8 beside float32: accuracy of trained models, and speed in ONNX Runtime on a processor.

    python benchmarks/int8.py accuracy [--work DIR]    # trains three small models on digits first
    python benchmarks/int8.py accuracy --models "CIFAR-10 ViT" --data CIFAR10 [--work DIR]
    python benchmarks/int8.py speed --work DIR [--batch 1,8]
    python benchmarks/int8.py table                    # the accuracies found, as Markdown

Accuracy: the models of `int8_models`, trained on scikit-learn's digits or on CIFAR-10, then as ToFe for two
budgets. Each is exported, calibrated (on 512 training pictures of digits, or 4,096 test pictures of CIFAR-10)
and judged on the rest of those that were held out from training (450, or 5,904): float32, INT8 as this tool
places it, and ONNX Runtime's `quantize_static` with its defaults on the same pictures. What is in DIR already
is not made again.

Speed: DeiT-S with drawn weights, dense and at 2.0 GMACs, float32 and INT8 in turn within one process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
import numpy as np
from drawn import drawn_checkpoint
from int8_models import MODELS, Small, budgets_of, folders, trained
from numpy.typing import NDArray

from tofe_export.bundle import Bundle
from tofe_export.calibration.defaults import METHODS
from tofe_export.calibration.images import Selection, find_images, select
from tofe_export.calibration.int8 import Pictures, Settings, add_int8
from tofe_export.calibration.stream import ImageStream
from tofe_export.graph.export import export
from tofe_export.graph.request import Request
from tofe_export.manifest import Variant
from tofe_export.model.checkpoint import load_checkpoint
from tofe_export.runtime.batching import run_all
from tofe_export.runtime.onnxruntime import OnnxRuntimeSession, Tuning

Array = NDArray[Any]
CALIBRATED = {"digits": 512, "CIFAR-10": 4096}


def accuracy(model: Small, work: Path, data: Path | None, methods: list[str]) -> dict[str, Any]:
    """Top-1 on held-out pictures of every form of one model, and agreement with float32."""

    calibrating, judging = selections(model, *folders(model, work, data))
    checkpoint = load_checkpoint(trained(model, work, data))
    request = Request(tuple(budgets_of(model)), batches=(1,), precisions=("fp32",))
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(checkpoint, request, Path(folder) / "bundle")
        stream = ImageStream(calibrating, checkpoint.preprocessing, 16).check()
        pictures = Pictures(stream, stream.facts().to_json())
        images, labels = as_arrays(judging, bundle)
        plain = [variant for variant in bundle.manifest.variants if variant.precision == "fp32"]
        rows: dict[str, dict[str, Any]] = {variant.name: {} for variant in plain}
        for variant in plain:
            answers = classes(bundle.file(variant.file), images, bundle.manifest.model.output)
            rows[variant.name]["fp32"] = {"top1": float((answers == labels).mean())}
            rows[variant.name]["answers"] = answers
            default = quantize_by_default(bundle, variant, stream)
            found = classes_as_placed(default, images, bundle.manifest.model.output)
            rows[variant.name]["onnxruntime defaults"] = judged(found, answers, labels)
        for method in methods:
            for least in (0.0, 0.99):
                settings = Settings(method, least)  # type: ignore[arg-type]  # argparse checked
                made = add_int8(bundle, pictures, settings)
                for variant in plain:
                    name = variant.name.replace("-fp32-", "-int8-")
                    found = classes(made.file(made.variant(name).file), images, made.manifest.model.output)
                    account = made.variant(name).extra["int8"]
                    key = f"int8 {method}" + ("" if least else ", nothing left out")
                    rows[variant.name][key] = judged(found, rows[variant.name]["answers"], labels) | {
                        "share_of_macs": round(account["share_of_macs"], 3),
                        "left_out": len(account["left_out"]),
                        "held_out_agreement": account["agreement"],
                    }
        for row in rows.values():
            row.pop("answers")
    return {
        "model": model.label,
        "timm": model.name,
        "arguments": model.arguments,
        "massive": model.massive,
        "data": model.data,
        "shares": model.shares,
        "pictures": len(labels),
        "variants": rows,
    }


def judged(found: Array, answers: Array, labels: Array) -> dict[str, float]:
    """Top-1, and how often the class is float32's."""
    return {"top1": float((found == labels).mean()), "agreement": float((found == answers).mean())}


def selections(model: Small, train: Path, held_out: Path) -> tuple[Selection, Selection]:
    """Pictures to calibrate with and pictures to judge by, none in both."""
    everything = select(held_out, len(find_images(held_out)))
    if model.data == "digits":  # too few to share
        return select(train, CALIBRATED[model.data]), everything
    chosen = select(held_out, CALIBRATED[model.data])
    return chosen, replace(everything, names=tuple(sorted(set(everything.names) - set(chosen.names))))


def as_arrays(selection: Selection, bundle: Bundle) -> tuple[Array, Array]:
    """Pictures as the graphs take them, and their classes."""
    stream = ImageStream(selection, bundle.manifest.preprocessing, 64)
    images = np.concatenate(list(stream))
    labels = [name.split("/")[0] for name in selection.names]
    return images, np.unique(labels, return_inverse=True)[1]


def classes(path: Path, images: Array, output: str) -> Array:
    """Best class of every image, in ONNX Runtime."""
    with OnnxRuntimeSession(path) as session:
        best: Array = run_all(session, images)[output].argmax(axis=1)
        return best


def classes_as_placed(path: Path, images: Array, output: str) -> Array:
    """The same with nothing optimised, so that each operator rounds by itself and all sums are exact.

    It shows what a placement costs, not a processor: without VNNI ONNX Runtime's kernels saturate, and the
    option that mends it, which `classes` has, cannot load what default placement makes.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    answers = [session.run([output], {"images": image[None]})[0][0].argmax() for image in images]
    return np.array(answers)


def quantize_by_default(bundle: Bundle, variant: Variant, stream: ImageStream) -> Path:
    """ONNX Runtime's static quantisation as it comes, on every second picture as ours."""
    import logging

    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
        def __init__(self) -> None:
            self._left = self._singles()

        def _singles(self) -> Iterator[dict[str, Array]]:
            for batch in Pictures(stream, {}).ranging():
                for image in batch:
                    yield {"images": image[None]}

        def get_next(self) -> dict[str, Array] | None:
            return next(self._left, None)

    logging.disable(logging.WARNING)
    target = bundle.file(variant.file).with_suffix(".default.onnx")
    quantize_static(str(bundle.file(variant.file)), str(target), Reader())
    logging.disable(logging.NOTSET)
    return target


def prepare_speed(work: Path) -> Bundle:
    """DeiT-S, dense and at 2.0 GMACs, float32 and INT8, batch 1 and 8; made once."""
    target = work / "deit_s"
    if not (target / "manifest.json").exists():
        checkpoint = drawn_checkpoint("deit_small_patch16_224")
        request = Request((2.0,), batches=(1, 8), precisions=("fp32",))
        bundle = export(checkpoint, request, target)
        images = bundle.reference().images
        facts = {"count": len(images), "sha256": bundle.manifest.reference.images_sha256}
        add_int8(bundle, Pictures([images], facts), Settings(min_agreement=0.0))
    return Bundle.open(target)


def speed(work: Path, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Medians of alternating runs in one process."""
    bundle = prepare_speed(work)
    variants = [v for v in bundle.manifest.variants if v.batch == batch]
    tuning = Tuning(spinning=False)  # idle threads of one session would slow the others down
    sessions = {v.name: OnnxRuntimeSession(bundle.file(v.file), "cpu", tuning) for v in variants}
    images = np.random.default_rng(0).standard_normal((batch, 3, 224, 224)).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for turn in range(rounds + 2):
        names = list(sessions) if turn % 2 else list(sessions)[::-1]
        for name in names:
            begin = time.perf_counter()
            sessions[name].infer({"images": images})
            times[name].append(1000 * (time.perf_counter() - begin))
    medians = {name: float(np.median(found[2:])) for name, found in times.items()}
    rows = []
    for variant in variants:
        if variant.precision == "int8":
            plain = medians[variant.extra["twin"]]
            quick = medians[variant.name]
            rows.append(
                {
                    "variant": variant.name,
                    "vnni": has_vnni(),
                    "batch": batch,
                    "fp32_ms": round(plain, 2),
                    "int8_ms": round(quick, 2),
                    "times_faster": round(plain / quick, 2),
                    "share_of_macs": round(variant.extra["int8"]["share_of_macs"], 3),
                    "rounds": rounds,
                }
            )
    return rows


def has_vnni() -> bool:
    """Whether this x86 processor multiplies INT8 in one instruction; on its absence speed depends most."""
    known = Path("/proc/cpuinfo")
    return known.exists() and any(name in known.read_text() for name in ("avx512_vnni", "avx_vnni"))


def record(part: str, names: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    """Write rows into one part of the results, instead of those that `names` say are the same."""
    path = machine.RESULTS / "int8.json"
    figures = json.loads(path.read_text()) if path.exists() else {}
    figures.pop("machine", None)
    new = [[row[name] for name in names] for row in rows]
    kept = [row for row in figures.get(part, []) if [row[name] for name in names] not in new]
    figures[part] = [*kept, *rows]
    machine.write("int8", figures)


def table() -> str:
    """Accuracies of the result file, ranges by `max`."""
    rows = [
        "| | float32 | INT8 | nothing left out | defaults | of the MACs in INT8 |",
        "|---|---|---|---|---|---|",
    ]
    for found in json.loads((machine.RESULTS / "int8.json").read_text())["accuracy"]:
        shares = (None, *found["shares"])
        for share, forms in zip(shares, found["variants"].values(), strict=True):
            ours, raw = forms["int8 max"], forms["int8 max, nothing left out"]
            cells = [
                f"{found['model']}, " + (f"{share:.2f} of dense" if share else "dense"),
                f"{forms['fp32']['top1']:.2%}",
                *(
                    f"{one['top1']:.2%} ({one['agreement']:.2%})"
                    for one in (ours, raw, forms["onnxruntime defaults"])
                ),
                f"{ours['share_of_macs']:.0%}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def main() -> int:
    """Measure one part; figures of the other part stay in the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("accuracy", "speed", "table"))
    parser.add_argument("--work", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    on_digits = ",".join(model.label for model in MODELS if model.data == "digits")
    parser.add_argument("--models", default=on_digits, help=f"default: {on_digits}")
    parser.add_argument("--data", type=Path, help="CIFAR-10: train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--prepare", action="store_true", help="only make what `speed` measures")
    arguments = parser.parse_args()
    if arguments.part == "table":
        print(table())
        return 0
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        if arguments.prepare:
            prepare_speed(work)
            return 0
        if arguments.part == "accuracy":
            found = []
            for model in [model for model in MODELS if model.label in arguments.models.split(",")]:
                found.append(accuracy(model, work, arguments.data, arguments.methods.split(",")))
                record("accuracy", ("model",), found[-1:])
        else:
            batches = [int(batch) for batch in arguments.batch.split(",")]
            found = [row for batch in batches for row in speed(work, batch, arguments.rounds)]
            record("speed", ("variant", "vnni"), found)
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
