"""`exports.py MODEL --out DIR`: the host's half, where a model with drawn weights becomes a bundle.

Needs torch, timm and onnx. `faults` writes DIR/faults: a small sound bundle, and copies of it in which one
graph is replaced by one that TensorRT is expected to refuse. Their hashes fit, so nothing but TensorRT
can say no.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from drawn import drawn_checkpoint, spread_head
from onnx import TensorProto, helper, numpy_helper

from tofe_export.files import sha256_file
from tofe_export.graph.export import pictures_from
from tofe_export.preprocess import apply

LOWERINGS = "scatter,concat"


@dataclass(frozen=True)
class Model:
    """A model and what it is exported for."""

    timm: str
    sizes: tuple[str, ...]  # --budget or --keep
    options: dict[str, Any] = field(default_factory=dict)
    lowerings: str = LOWERINGS


_SMALL = {"patch_size": 4, "depth": 4, "embed_dim": 64, "num_heads": 2}
MODELS = {
    "deit_s": Model("deit_small_patch16_224", ("--budget", "2.0,3.0")),
    "lvvit_s": Model("lvvit_s", ("--budget", "3.3")),
    # 32 x 32 pixels, 64 patches: for rehearsals
    "tiny": Model(
        "deit_tiny_patch16_224",
        ("--keep", "32,20,12"),
        {"image_size": (32, 32), "num_classes": 10, "arguments": _SMALL},
    ),
}
LARGE_K = 4000  # TensorRT's TopK gives at most 3840


def export_model(label: str, out: Path, batches: str, precisions: str) -> None:
    """Make DIR/label with `tofe-export onnx`."""
    model = MODELS[label]
    checkpoint = drawn_checkpoint(model.timm, seed=len(label), **model.options)
    pictures = pictures_from(None, None)
    spread_head(checkpoint.model, np.stack([apply(p, checkpoint.preprocessing) for p in pictures.sources]))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{label}.pt"
        checkpoint.save(file)
        options = ["--lowering", model.lowerings, "--batch", batches, "--precision", precisions]
        command = ["onnx", "--ckpt", str(file), *model.sizes, *options, "--out", str(out / label)]
        subprocess.run([sys.executable, "-m", "tofe_export.cli", *command], check=True)


def scatter_reduction(model: onnx.ModelProto) -> None:
    """A ScatterND that adds."""
    node = next(node for node in model.graph.node if node.op_type == "ScatterND")
    node.attribute.append(helper.make_attribute("reduction", "add"))


def large_k(model: onnx.ModelProto) -> None:
    """A TopK of 4000 whose largest value is added to the output."""
    images, output = model.graph.input[0], model.graph.output[0].name
    batch, *rest = (dim.dim_value for dim in images.type.tensor_type.shape.dim)
    size = int(np.prod(rest))
    repeats = -(-2 * LARGE_K // size)
    for node in model.graph.node:
        node.output[:] = ["planted/own" if name == output else name for name in node.output]
    constants = {"planted/shape": [batch, size], "planted/k": [LARGE_K], "planted/first": [0]}
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    make = helper.make_node
    model.graph.node.extend(
        (
            make("Reshape", [images.name, "planted/shape"], ["planted/flat"], "planted/Reshape"),
            make("Concat", ["planted/flat"] * repeats, ["planted/many"], "planted/Concat", axis=1),
            make(
                "TopK", ["planted/many", "planted/k"], ["planted/top", "planted/ids"], "planted/TopK", axis=1
            ),
            make("Gather", ["planted/top", "planted/first"], ["planted/max"], "planted/Gather", axis=1),
            make("Add", ["planted/own", "planted/max"], [output], "planted/Add"),
        )
    )


def unknown_operator(model: onnx.ModelProto) -> None:
    """An operator of a domain that nobody knows."""
    next(node for node in model.graph.node if node.op_type == "MatMul").domain = "nobody.knows"
    model.opset_import.append(helper.make_opsetid("nobody.knows", 1))


def unnamed_output(model: onnx.ModelProto) -> None:
    """Two nodes with an optional output called ''."""
    ratio = numpy_helper.from_array(np.float32(0.1), "planted/ratio")
    model.graph.initializer.append(ratio)
    for at in range(2):
        name = f"planted/Dropout_{at}"
        source = model.graph.input[0].name
        model.graph.node.append(helper.make_node("Dropout", [source, "planted/ratio"], [name, ""], name))
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))


PLANTED: dict[str, Callable[[onnx.ModelProto], None]] = {
    "scatternd-reduction": scatter_reduction,
    "k-above-limit": large_k,
    "unknown-operator": unknown_operator,
    "unnamed-outputs": unnamed_output,
}
WHOLE = "whole"  # the sound bundle that the others are copies of


def export_faults(out: Path) -> None:
    """Write DIR/faults; an existing sound bundle is taken as it is."""
    folder = out / "faults"
    if not (folder / WHOLE / "manifest.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        export_model("tiny", folder, "1", "fp32,fp16")
        (folder / "tiny").rename(folder / WHOLE)
    for name, change in PLANTED.items():
        plant(folder / WHOLE, folder / name, change)


def plant(whole: Path, target: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Copy a bundle and change the graph of its first reduced float32 variant, its hash and nothing else."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(whole, target, ignore=shutil.ignore_patterns("engines"))
    path = target / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    variant = next(v for v in manifest["variants"] if v["lowering"] == "scatter" and v["precision"] == "fp32")
    model = onnx.load(target / variant["file"], load_external_data=False)
    change(model)
    onnx.save(model, target / variant["file"])
    variant["sha256"] = sha256_file(target / variant["file"])
    path.write_text(json.dumps(manifest), encoding="utf-8")


def main() -> int:
    """Export what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=(*MODELS, "faults"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", default="1,8,128")
    parser.add_argument("--precisions", default="fp32,fp16")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.model == "faults":
        export_faults(given.out)
    else:
        export_model(given.model, given.out, given.batches, given.precisions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
