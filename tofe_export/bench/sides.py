"""Opening a variant to be measured, and the pictures that it is fed.

Sessions are opened one by one and stay open together, as paired runs need it. On ONNX Runtime's CPU provider
their idle threads must not spin then: each session's threads would burn the cores that the other is measured
on (2 cores: the dense DeiT-S took 91 ms instead of 53, and the ratio fell from 2.07 to 1.7).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tofe_export.bench.timing import Feeds
from tofe_export.bundle import Bundle
from tofe_export.errors import MissingBackend, UsageError
from tofe_export.manifest import DYNAMIC, Variant
from tofe_export.runtime.session import Array, Session

IMAGES = "images"
_FEEDS = 8  # different inputs, as far as the reference has pictures

Opener = Callable[[Variant], Session]


@dataclass(frozen=True)
class How:
    """What runs the variants. `batch` is used where a variant's own is dynamic."""

    backend: str
    provider: str
    threads: int | None = None
    spinning: bool = False
    cuda_graph: bool = True
    batch: int = 1

    @property
    def on_gpu(self) -> bool:
        """Whether it computes on a GPU."""
        return self.backend == "tensorrt" or self.provider != "cpu"

    def batch_of(self, variant: Variant) -> int:
        """Pictures per run."""
        return self.batch if variant.batch == DYNAMIC else int(variant.batch)


def open_side(bundle: Bundle, variant: Variant, how: How) -> Session:
    """Open a variant's product graph or engine. Raises what `Session.open` raises."""
    if how.backend == "tensorrt":
        from tofe_export.runtime.tensorrt import open_engine

        return open_engine(bundle, variant, cuda_graph=how.cuda_graph)
    from tofe_export.runtime.onnxruntime import OnnxRuntimeSession, Tuning

    bundle.check([variant], reference=False)
    return OnnxRuntimeSession(
        bundle.file(variant.file), how.provider, Tuning(how.threads, spinning=how.spinning or how.on_gpu)
    )


def feeds_of(session: Session, images: Array, batch: int) -> list[Feeds]:
    """Inputs of one run each, (batch, ...) of `images` (n, ...), which repeat where the batch is larger.

    Raises UsageError when the session does not take that batch.
    """
    least, largest = session.batches or (1, batch)
    if not least <= batch <= largest:
        raise UsageError(
            f"expected a batch from {least} to {largest}, found {batch}: use another --run-batch"
        )
    count = max(1, min(_FEEDS, len(images) // batch))
    rows = np.arange(count * batch) % len(images)
    return [{IMAGES: np.ascontiguousarray(images[part])} for part in rows.reshape(count, batch)]


def free_device_memory(how: How) -> Callable[[], int] | None:
    """A function that says how many bytes the GPU has free; None on a processor or without libcudart."""
    if not how.on_gpu:
        return None
    from tofe_export.runtime.cuda import Cuda

    try:
        return Cuda().free_memory
    except MissingBackend:
        return None


def peak_memory(status: Path = Path("/proc/self/status")) -> int:
    """The largest resident set of this process so far, in bytes.

    From the kernel's own line where there is one: getrusage counts the parent's memory too in a process that
    was just started from a large one.
    """
    import resource

    try:
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
