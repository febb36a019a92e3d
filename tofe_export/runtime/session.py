"""Session: a variant that is ready to run, the same in every runtime.

A runtime only has to say what a graph takes and gives (`TensorInfo`) and to run it on arrays that are known
to be right. All checks live here, because runtimes answer a wrong array in their own words, or with wrong
numbers: a float64 image is refused, never converted, and a transposed one never reaches a kernel.

    with Session.open("tofe_bundle") as session:
        logits = session.infer({"images": images})["logits"]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from tofe_export.bundle import DEFAULT_PATH, Bundle
from tofe_export.errors import InputError, TofeError, UsageError, VariantError

BACKENDS = ("onnxruntime", "tensorrt")

Array = npt.NDArray[Any]
Opened = TypeVar("Opened", bound="Session")


@dataclass(frozen=True)
class TensorInfo:
    """An input or output: sizes are numbers, or names where they are dynamic ("batch")."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


class Session(ABC):
    """A loaded graph. `provider` is what really executes it: "cpu", "cuda", "tensorrt"."""

    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]
    provider: str
    batches: tuple[int, int] | None = None  # least and largest batch, where a dynamic one has limits

    @staticmethod
    def open(
        bundle: Bundle | Path | str = DEFAULT_PATH,
        variant: str | None = None,
        backend: str = "onnxruntime",
        provider: str = "cpu",
        probe: bool = False,
    ) -> Session:
        """Load a variant of a bundle (default: the first with token reduction), or its probe graph.

        `provider` is ONNX Runtime's; "tensorrt" as the backend runs the engine that was built here. The files
        are compared with their hashes first. Raises BundleError (damaged), VariantError (no such variant or
        no probe), UsageError (unknown backend or provider), MissingBackend or MissingExtra (the runtime, its
        provider or the engine is not there; there is no silent fallback to another one).
        """
        if backend not in BACKENDS:
            raise UsageError(f"expected a backend out of {', '.join(BACKENDS)}, found {backend!r}")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        chosen = opened.default_variant() if variant is None else opened.variant(variant)
        if probe and chosen.probe is None:
            raise VariantError(f"variant {chosen.name} has no probe graph: it selects no tokens")
        if backend == "tensorrt":
            from tofe_export.runtime.tensorrt import open_engine

            return open_engine(opened, chosen, probe)
        opened.check([chosen], reference=False)
        path = opened.file(chosen.probe.file if probe and chosen.probe is not None else chosen.file)

        from tofe_export.runtime.onnxruntime import OnnxRuntimeSession

        return OnnxRuntimeSession(path, provider)

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once. Raises InputError unless names, dtypes and shapes are those of `inputs`."""
        self._check(feeds)
        return self._run({name: np.ascontiguousarray(array) for name, array in feeds.items()})

    @abstractmethod
    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """Run on checked, contiguous arrays."""

    @abstractmethod
    def close(self) -> None:
        """Give memory back; the session cannot be used afterwards. Closing twice is allowed."""

    def __enter__(self: Opened) -> Opened:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(TofeError) if error else nullcontext():  # what happened first is what counts
            self.close()

    def _check(self, feeds: Mapping[str, Array]) -> None:
        if feeds.keys() != self.inputs.keys():
            raise InputError(
                f"expected the inputs {', '.join(map(str, self.inputs.values()))}; "
                f"found {', '.join(feeds) or 'none'}"
            )
        sizes: dict[str, int] = {}
        for name, array in feeds.items():
            info = self.inputs[name]
            if array.dtype != info.dtype or not _fits(info.shape, array.shape, sizes):
                bound = f" with {sizes}" if sizes else ""
                raise InputError(f"expected {info}{bound}, found {name} {array.dtype} {array.shape}")


def _fits(expected: tuple[int | str, ...], found: tuple[int, ...], sizes: dict[str, int]) -> bool:
    """Whether a shape fits; dynamic sizes are noted in `sizes`, so that one name has one size."""
    if len(expected) != len(found) or 0 in found:
        return False
    for want, size in zip(expected, found, strict=True):
        if (sizes.setdefault(want, size) if isinstance(want, str) else want) != size:
            return False
    return True
