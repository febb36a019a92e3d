"""What the sides are fed, how they are opened, and memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_bundle

from tofe_export.bench import sides
from tofe_export.bench.sides import How, feeds_of, free_device_memory, open_side, peak_memory
from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, MissingBackend, UsageError
from tofe_export.runtime.onnxruntime import OnnxRuntimeSession
from tofe_export.runtime.session import Session

SPINNING = "session.intra_op.allow_spinning"
HOW = How("onnxruntime", "cpu", threads=1)

IMAGES = np.arange(5, dtype=np.float32)[:, None, None, None] * np.ones((1, 3, 8, 8), np.float32)


def values(feeds: list[Any]) -> list[list[float]]:
    return [[float(image.flat[0]) for image in feed["images"]] for feed in feeds]


def test_feeds_are_different_pictures(make_session: Any) -> None:
    assert values(feeds_of(make_session([1.0]), IMAGES, 1)) == [[0], [1], [2], [3], [4]]
    assert values(feeds_of(make_session([1.0], batch=2), IMAGES, 2)) == [[0, 1], [2, 3]]


def test_pictures_repeat_in_a_batch_that_is_larger_than_the_reference(make_session: Any) -> None:
    assert values(feeds_of(make_session([1.0], batch=8), IMAGES, 8)) == [[0, 1, 2, 3, 4, 0, 1, 2]]


def test_a_batch_outside_the_engines_profile(make_session: Any) -> None:
    session = make_session([1.0], batch="batch")
    session.batches = (2, 8)
    assert len(feeds_of(session, IMAGES, 2)) == 2
    with pytest.raises(UsageError, match="from 2 to 8, found 1: use another --run-batch"):
        feeds_of(session, IMAGES, 1)


def test_the_batch_of_a_dynamic_variant_is_chosen(bundle: Bundle) -> None:
    variant = bundle.variant("1.50g-scatter-fp32-b4")
    how = How("onnxruntime", "cpu", batch=16)
    assert how.batch_of(variant) == 4
    assert how.batch_of(replace(variant, batch="dyn")) == 16


@pytest.mark.parametrize(
    ("how", "threads", "spinning"),
    [
        (How("onnxruntime", "cpu", threads=2), 2, False),
        (How("onnxruntime", "cpu", spinning=True), None, True),
        (How("onnxruntime", "cuda"), None, True),
    ],
)
def test_only_a_processor_is_kept_from_spinning(
    bundle: Bundle, how: How, threads: int | None, spinning: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr(
        "tofe_export.runtime.onnxruntime.OnnxRuntimeSession", lambda *arguments: opened.append(arguments)
    )
    variant = bundle.variant("dense-fp32-b1")
    open_side(bundle, variant, how)
    path, provider, tuning = opened[0]
    assert (path, provider) == (bundle.file(variant.file), how.provider)
    assert (tuning.threads, tuning.spinning) == (threads, spinning)


def test_onnxruntime_is_told(tmp_path: Path) -> None:
    bundle = Bundle.open(tiny_bundle.write_bundle(tmp_path / "tiny", ("fp32",)))
    with open_side(bundle, bundle.variant("dense-fp32-b1"), HOW) as quiet:
        assert options_of(quiet).intra_op_num_threads == 1
        assert options_of(quiet).get_session_config_entry(SPINNING) == "0"
    with open_side(bundle, bundle.variant("dense-fp32-b1"), replace(HOW, spinning=True)) as session:
        options = options_of(session)
    with pytest.raises(RuntimeError, match="does not have configuration"):
        options.get_session_config_entry(SPINNING)


def options_of(session: Session) -> Any:
    """What ONNX Runtime took."""
    assert isinstance(session, OnnxRuntimeSession)
    assert session._session is not None
    return session._session.get_session_options()


def test_a_changed_graph_is_not_measured(bundle: Bundle) -> None:
    variant = bundle.variant("dense-fp32-b1")
    bundle.file(variant.file).write_bytes(b"other")
    with pytest.raises(BundleError, match="expected sha256"):
        open_side(bundle, variant, How("onnxruntime", "cpu"))


def test_peak_memory_is_the_kernels_own_line(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t   2048 kB\nVmRSS:\t 1024 kB\n")
    assert peak_memory(status) == 2048 * 1024
    assert peak_memory(tmp_path / "none") > 1 << 20  # getrusage


def test_device_memory_is_asked_of_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cuda:
        def __init__(self) -> None:
            if os.environ.get("NO_FAKE_CUDA"):
                raise MissingBackend("none")

        def free_memory(self) -> int:
            return 5

    monkeypatch.setattr("tofe_export.runtime.cuda.Cuda", Cuda)
    assert free_device_memory(How("onnxruntime", "cpu")) is None
    ask = free_device_memory(How("tensorrt", "tensorrt"))
    assert ask is not None
    assert ask() == 5
    monkeypatch.setenv("NO_FAKE_CUDA", "1")
    assert free_device_memory(How("onnxruntime", "cuda")) is None
    assert sides.How("tensorrt", "tensorrt").on_gpu
