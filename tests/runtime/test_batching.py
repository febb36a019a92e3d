"""Any number of images through graphs of any batch size."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_export.errors import InputError
from tofe_export.runtime.batching import run_all, run_batches
from tofe_export.runtime.session import Session, TensorInfo

Array = npt.NDArray[Any]


class Sums(Session):
    """A fake runtime: sums of images, plus an input per image, times a constant; it notes its batch sizes."""

    provider = "fake"

    def __init__(self, batch: int | str, ragged: bool = False) -> None:
        self.inputs = {
            "images": TensorInfo("images", np.dtype("float32"), (batch, 1)),
            "add": TensorInfo("add", np.dtype("float32"), (batch, 1)),
            "times": TensorInfo("times", np.dtype("float32"), (1,)),
        }
        self.outputs = {"sum": TensorInfo("sum", np.dtype("float32"), (batch, 1))}
        self.seen: list[int] = []
        self.ragged = ragged

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        self.seen.append(len(feeds["images"]))
        total = (feeds["images"] + feeds["add"]) * feeds["times"]
        return {"sum": np.repeat(total, len(self.seen), axis=1) if self.ragged else total}

    def close(self) -> None:
        pass


def inputs(count: int) -> tuple[Array, dict[str, Array], dict[str, Array]]:
    images = np.arange(count, dtype=np.float32)[:, None]
    return images, {"add": 10 * images}, {"times": np.array([2.0], np.float32)}


@pytest.mark.parametrize(
    ("own", "count", "batches"),
    [(1, 3, [1, 1, 1]), (4, 6, [4, 4]), (4, 4, [4]), (4, 1, [4]), ("batch", 6, [4, 2]), ("batch", 2, [2])],
)
def test_all_images_once_and_in_order(own: int | str, count: int, batches: list[int]) -> None:
    session = Sums(own)
    images, per_image, constant = inputs(count)
    result = run_all(session, images, per_image, constant, batch=4)
    np.testing.assert_array_equal(result["sum"], 22 * images)
    assert session.seen == batches


def test_run_batches_says_which_images() -> None:
    parts = list(run_batches(Sums(4), *inputs(6)))
    assert [part for part, _ in parts] == [slice(0, 4), slice(4, 6)]
    assert [len(outputs["sum"]) for _, outputs in parts] == [4, 2]


def test_refuses_no_images_and_unequal_rows() -> None:
    images, per_image, constant = inputs(3)
    with pytest.raises(InputError, match="found images: 0"):
        run_all(Sums(1), images[:0], {}, constant)
    with pytest.raises(InputError, match="found images: 3, add: 2"):
        run_all(Sums(1), images, {"add": per_image["add"][:2]}, constant)


def test_refuses_to_join_outputs_of_different_sizes() -> None:
    with pytest.raises(InputError, match=r"one shape for all images, found .* use run_batches"):
        run_all(Sums(1, ragged=True), *inputs(2))
