"""The command line, run inside the test, on bundles with engines of the FAKE TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from click.testing import CliRunner, Result

from tofe_export.cli import main
from tofe_export.files import sha256_file

REDUCED_32, REDUCED_16 = "0.01g-scatter-fp32-b1", "0.01g-scatter-fp16-b1"
ALL = {"dense-fp32-b1", "dense-fp16-b1", REDUCED_32, REDUCED_16}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def plans(bundle: Path) -> list[str]:
    return sorted(path.name for path in (bundle / "engines").glob("*.plan"))


def change_weights(bundle: Path, name: str, factor: float = -1.0) -> None:
    """Export the variant with its head times a factor, hashes and all."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry: dict[str, Any] = next(item for item in manifest["variants"] if item["name"] == name)
    for holder, file in ((entry, entry["file"]), (entry["probe"], entry["probe"]["file"])):
        model = onnx.load(bundle / file)
        for weight in model.graph.initializer:
            if weight.name == "head":
                changed = onnx.numpy_helper.to_array(weight) * np.float32(factor)
                weight.raw_data = changed.tobytes()
        onnx.save(model, bundle / file)
        holder["sha256"] = sha256_file(bundle / file)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
