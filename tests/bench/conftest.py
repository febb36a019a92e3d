"""A clock that only sessions move, and sessions that take as long as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tofe_export.bench.comparison import Comparison, Figures
from tofe_export.bench.pairs import Pair
from tofe_export.bench.statistics import Ratio, Summary
from tofe_export.bundle import Bundle
from tofe_export.runtime.session import Session, TensorInfo

Array = npt.NDArray[Any]


class FakeClock:
    """Seconds that pass only when something takes them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeSession(Session):
    """A FAKE runtime: each run takes the next of `times` from the clock and answers with nothing."""

    provider = "cpu"

    def __init__(self, clock: FakeClock, times: Sequence[float], batch: int | str = 1) -> None:
        self.inputs = {"images": TensorInfo("images", np.dtype("float32"), (batch, 3, 8, 8))}
        self.outputs = {"logits": TensorInfo("logits", np.dtype("float32"), (batch, 5))}
        self._clock = clock
        self._times: Iterator[float] = cycle(times)
        self.runs, self.closed = 0, False

    def _run(self, feeds: dict[str, Array]) -> dict[str, Array]:
        self.runs += 1
        self._clock.now += next(self._times)
        return {}

    def close(self) -> None:
        self.closed = True


MakeSession = Callable[..., FakeSession]
MakeComparison = Callable[..., Comparison]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_session(clock: FakeClock) -> MakeSession:
    """`make_session([0.010, 0.011])`: a session on `clock`."""
    return lambda times, batch=1: FakeSession(clock, times, batch)


@pytest.fixture
def make_comparison(bundle: Bundle) -> MakeComparison:
    """A comparison of the small bundle's variants with made-up figures."""

    def make(
        value: float = 2.0, low: float = 1.9, high: float = 2.1, noise: float = 1.0, **changes: Any
    ) -> Comparison:
        variant, dense = bundle.variant("2.00g-scatter-fp32-b1"), bundle.variant("dense-fp32-b1")
        figures = Figures(Summary(50, 10.0, 11.0, None, None, 9.0), None, 100.0, None)
        against = Figures(Summary(50, 20.0, 22.0, None, None, 19.0), None, 50.0, None)
        return Comparison(
            **{
                "pair": Pair(variant, dense),
                "batch": 1,
                "clock": "perf_counter",
                "variant": figures,
                "against": against,
                "speedup": Ratio(value, low, high, 50, 40),
                "with_copies": None,
                "noise": Ratio(noise, noise - 0.01, noise + 0.01, 50, 40),
                **changes,
            }
        )

    return make
