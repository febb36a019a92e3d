"""`look.py platform` and `look.py engines PLAN... --out DIR [--whole N]`: what only TensorRT itself can tell.

The first prints TensorRT and device, or why there is none, with the lines that TensorRT gave: past the CUDA
library it also asks for a builder. The second asks each engine's inspector and prints a summary; the whole
answers go to DIR as .json.gz, and the first N into the summary too. Both print one JSON object.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tofe_export.errors import MissingBackend
from tofe_export.trt.api import Inspector
from tofe_export.trt.compat import Features, load
from tofe_export.trt.device import driver_version
from tofe_export.trt.explain import with_lines
from tofe_export.trt.inspect import layer_precision, read_layers
from tofe_export.trt.log import logger_of
from tofe_export.trt.platform import Platform

LARGEST_WHOLE = 64 << 10  # bytes, compressed, of an answer that goes into the summary


def platform() -> dict[str, Any]:
    """TensorRT and device, or the reasons; `builder` is null where it was not reached."""
    try:
        trt = load()
    except MissingBackend as error:
        return {"usable": False, "tensorrt": None, "reason": str(error), "builder": None}
    found: dict[str, Any] = {"tensorrt": Features.of(trt).text, "driver": driver_version()}
    try:
        found["device"] = Platform.here().device.to_json()
    except MissingBackend as error:
        found["reason"] = str(error)
    logger = logger_of(trt)
    with logger.listening() as lines:
        try:
            trt.Builder(logger.handle)
            found["builder"] = "made"
        except (TypeError, RuntimeError) as error:
            found["builder"] = with_lines(f"TensorRT makes no builder ({error})", lines.everything, "unknown")
        found["lines"] = lines.everything
    return found | {"usable": "device" in found and found["builder"] == "made"}


def engine(plan: Path, out: Path, whole: bool) -> dict[str, Any]:
    """The inspector's answer about one plan: sizes, kinds and types of layers, and where all of it is."""
    trt = Platform.here().trt  # a process without a GPU must not get as far as a Runtime: 8.6 crashes there
    logger = logger_of(trt)
    with logger.listening() as lines:
        runtime = trt.Runtime(logger.handle)
        loaded = runtime.deserialize_cuda_engine(plan.read_bytes())
        if loaded is None:
            return {"engine": plan.name, "error": with_lines("it does not load", lines.everything, "unknown")}
        inspector: Inspector = loaded.create_engine_inspector()
        text = str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    packed = gzip.compress(text.encode(), mtime=0)
    (out / f"{plan.stem}.inspector.json.gz").write_bytes(packed)
    answer = {"engine": plan.name, "bytes": len(text.encode()), "gzip_bytes": len(packed), **digest(text)}
    if whole and len(packed) <= LARGEST_WHOLE:
        answer["gzip_base64"] = base64.b64encode(packed).decode()
    return answer


def digest(text: str) -> dict[str, Any]:
    """What the answer is made of, and how the product reads it."""
    try:
        data = json.loads(text)
    except ValueError as error:
        return {"error": f"no JSON: {error}", "begins": text[:200]}
    layers = [layer for layer in data.get("Layers", []) if isinstance(layer, dict)]
    tensors = [
        t
        for layer in layers
        for t in (*layer.get("Inputs", []), *layer.get("Outputs", []))
        if isinstance(t, dict)
    ]
    read = read_layers(text)
    return {
        "keys": sorted(data),
        "layers": len(data.get("Layers", [])),
        "layer_keys": _counted(key for layer in layers for key in layer),
        "layer_types": _counted(layer.get("LayerType") for layer in layers),
        "tensor_keys": _counted(key for tensor in tensors for key in tensor),
        "formats": _counted(tensor.get("Format/Datatype", tensor.get("Datatype")) for tensor in tensors),
        "precisions": _counted(layer_precision(layer) for layer in layers),
        "read": {
            "counts": read.counts,
            "untyped": read.untyped,
            "opaque": read.opaque,
            "source": read.source,
        },
    }


def _counted(values: Any) -> dict[str, int]:  # noqa: ANN401 - anything that can be listed
    return {str(value): count for value, count in Counter(values).most_common()}


def main(arguments: list[str] | None = None) -> int:
    """Print one JSON object; 1 if there is nothing to look at."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("platform", "engines"))
    parser.add_argument("plans", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--whole", type=int, default=0, metavar="N")
    given = parser.parse_args(arguments)
    if given.what == "platform":
        found = platform()
        print(json.dumps(found))
        return 0 if found["usable"] else 1
    given.out.mkdir(parents=True, exist_ok=True)
    print(
        json.dumps({"engines": [engine(p, given.out, at < given.whole) for at, p in enumerate(given.plans)]})
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
