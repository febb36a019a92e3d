"""The checks that every runtime shares, on a fake one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_export.bundle import Bundle
from tofe_export.errors import BundleError, InputError, UsageError, VariantError
from tofe_export.runtime.session import Session, TensorInfo

Array = npt.NDArray[Any]


class Echo(Session):
    """A fake runtime that returns what it was fed."""

    provider = "fake"

    def __init__(self) -> None:
        self.inputs = {
            "images": TensorInfo("images", np.dtype("float32"), ("batch", 3, 2, 2)),
            "force": TensorInfo("force", np.dtype("int64"), ("batch", 4)),
        }
        self.outputs = self.inputs
        self.closed = False

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        assert all(array.flags.c_contiguous for array in feeds.values())
        return feeds

    def close(self) -> None:
        self.closed = True


def feeds(**changed: Array) -> dict[str, Array]:
    good: dict[str, Array] = {
        "images": np.zeros((2, 3, 2, 2), np.float32),
        "force": np.zeros((2, 4), np.int64),
    }
    return good | changed


def test_infer_hands_over_contiguous_arrays() -> None:
    turned = np.zeros((2, 2, 2, 3), np.float32).transpose(0, 3, 1, 2)
    assert Echo().infer(feeds(images=turned))["images"].shape == (2, 3, 2, 2)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"images": np.zeros((2, 3, 2, 2))},
            r"expected images float32 \(batch, 3, 2, 2\), found images float64",
        ),
        ({"images": np.zeros((2, 2, 2, 3), np.float32)}, r"found images float32 \(2, 2, 2, 3\)"),
        ({"images": np.zeros((3, 2, 2), np.float32)}, r"found images float32 \(3, 2, 2\)"),
        ({"images": np.zeros((0, 3, 2, 2), np.float32)}, r"found images float32 \(0, 3, 2, 2\)"),
        (
            {"force": np.zeros((1, 4), np.int64)},
            r"expected force int64 \(batch, 4\) with {'batch': 2}, found",
        ),
        ({"stray": np.zeros(1)}, "expected the inputs images float32 .*; found images, force, stray"),
    ],
)
def test_infer_refuses_what_does_not_fit(changed: dict[str, Array], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Echo().infer(feeds(**changed))


def test_infer_refuses_missing_inputs() -> None:
    with pytest.raises(InputError, match="found none"):
        Echo().infer({})


def test_a_session_closes_itself() -> None:
    with Echo() as session:
        assert isinstance(session, Echo)
        assert not session.closed
    assert session.closed


def test_open_refuses_before_it_loads_anything(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="expected a backend out of onnxruntime, tensorrt, found 'torch'"):
        Session.open(bundle, backend="torch")
    with pytest.raises(VariantError, match="no variant 'x'"):
        Session.open(bundle.path, "x")
    with pytest.raises(VariantError, match="has no probe graph"):
        Session.open(str(bundle.path), "dense-fp32-b1", probe=True)
    bundle.file("variants/2.00g-scatter-fp32-b1.onnx").write_bytes(b"changed")
    with pytest.raises(BundleError, match="expected sha256"):
        Session.open(bundle)
