"""Run a graph that is not in a bundle: written beside its weights for as long as the session is open."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx

from tofe_export.files import writing
from tofe_export.runtime.onnxruntime import OnnxRuntimeSession
from tofe_export.runtime.session import Session


@contextmanager
def temporary_session(model: onnx.ModelProto, folder: Path) -> Iterator[Session]:
    """ONNX Runtime's CPU provider on a graph whose weights lie in `folder`, which must be writable.

    Raises WriteError, MissingExtra (no onnxruntime), BundleError (it cannot load the graph).
    """
    path = folder / f"calibrating-{secrets.token_hex(4)}.onnx"
    with writing(path):
        path.write_bytes(model.SerializeToString())
    try:
        with OnnxRuntimeSession(path) as session:
            yield session
    finally:
        path.unlink(missing_ok=True)


def with_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> onnx.ModelProto:
    """A copy that also returns `tensors`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name: value for value in copy.graph.value_info}
    ends = {value.name for value in copy.graph.output} | {value.name for value in copy.graph.input}
    for name in tensors:
        if name not in ends:
            copy.graph.output.append(known[name])
    return copy
