"""A latency table of DeiT-S with made-up times that follow a formula: predictions can be checked by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from known_costs import DEIT_S

from tofe_export.budget import Cost
from tofe_export.bundle import Bundle
from tofe_export.latency.rungs import LADDER
from tofe_export.latency.table import Entry, Step, Table
from tofe_export.manifest import Variant
from tofe_export.runtime.session import Session, TensorInfo

MakeEntry = Callable[..., Entry]
COUNTS = (6, 12, 24, 49, 98, 147, 196)


def steps(share: Callable[[int], float], counts: tuple[int, ...] = COUNTS) -> tuple[Step, ...]:
    return tuple(Step(k, share(k), share(k) * 0.99, share(k) * 1.01, 20) for k in counts)


def linear(keep: int) -> float:
    """30 % for what every variant pays, and 0.36 % per token kept in all stages."""
    return 0.3 + 0.0036 * keep


@pytest.fixture
def cost() -> Cost:
    return DEIT_S


@pytest.fixture
def make_entry() -> MakeEntry:
    """An entry with what the test changes; `share` maps K to the share of the dense latency."""

    def make(
        share: Callable[[int], float] = linear, counts: tuple[int, ...] = COUNTS, **changes: Any
    ) -> Entry:
        return Entry(
            **{
                "image_size": (224, 224),
                "lowering": "scatter",
                "precision": "fp32",
                "batch": 1,
                "heads": 6,
                "cost": DEIT_S,
                "dense_ms": 50.0,
                "noise": 0.01,
                "steps": steps(share, counts),
                **changes,
            }
        )

    return make


@pytest.fixture
def entry(make_entry: MakeEntry) -> Entry:
    return make_entry()


@pytest.fixture
def table(entry: Entry, make_entry: MakeEntry) -> Table:
    """Batch 1 and 8."""
    machine = {
        "identity": {
            "processor": "Example CPU",
            "architecture": "x86_64",
            "cores": 2,
            "gpu": None,
            "board": None,
        },
        "mode": {"governor": None},
    }
    settings = {"backend": "onnxruntime", "provider": "cpu", "threads": 2}
    entries = (entry, make_entry(batch=8, dense_ms=400.0))
    return Table("deit_small_patch16_224", "2025-01-02T03:04:05+00:00", machine, settings, entries)


class FakeClock:
    """Seconds that pass only when a run takes them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeSession(Session):
    """A FAKE runtime: each run takes `seconds` from the clock and answers with nothing."""

    provider = "cpu"

    def __init__(self, clock: FakeClock, seconds: float, opened: list[str], name: str) -> None:
        self.inputs = {"images": TensorInfo("images", np.dtype("float32"), ("batch", 3, 8, 8))}
        self.outputs = {}
        self._clock, self._seconds = clock, seconds
        self._opened, self.name = opened, name
        opened.append(name)

    def _run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        self._clock.now += self._seconds
        return {}

    def close(self) -> None:
        self._opened.remove(self.name)


class FakeRuntime:
    """Opens fake sessions: `seconds` by name of the variant; notes how many were open at once."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.clock, self.seconds = FakeClock(), seconds
        self.opened: list[str] = []
        self.most = 0

    def __call__(self, variant: Variant) -> FakeSession:
        session = FakeSession(self.clock, self.seconds[variant.name], self.opened, variant.name)
        self.most = max(self.most, len(self.opened))
        return session


@pytest.fixture
def fake_runtime() -> type[FakeRuntime]:
    return FakeRuntime


@pytest.fixture
def ladder(bundle: Bundle) -> Bundle:
    """The small bundle as a ladder: dense and 1, 2, 4 tokens at batch 1. Its graphs are arbitrary bytes."""
    dense, reduced, _ = bundle.manifest.variants
    rungs = [replace(reduced, name=f"k{k}-scatter-fp32-b1", keep=(k,)) for k in (4, 1, 2)]
    variants = tuple(replace(variant, extra={LADDER: {"heads": 2}}) for variant in (dense, *rungs))
    return Bundle(bundle.path, replace(bundle.manifest, variants=variants))
