"""Timing one run, by the clock and by events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tofe_export.bench.timing import EventTimer, Timer, timer_of

FEEDS = [{"images": np.full((1, 3, 8, 8), value, np.float32)} for value in range(3)]


class FakeCuda:
    """Events on a FAKE device whose kernels take 2 ms."""

    def __init__(self) -> None:
        self.live: list[int] = []
        self.calls: list[str] = []

    def create_event(self) -> int:
        self.live.append(len(self.live) + 1)
        return self.live[-1]

    def record_event(self, event: int, stream: int) -> None:
        assert event in self.live
        self.calls.append(f"event {event} in {stream}")

    def elapsed_ms(self, start: int, end: int) -> float:
        self.calls.append(f"from {start} to {end}")
        return 2.0

    def destroy_event(self, event: int) -> None:
        self.live.remove(event)


@pytest.fixture
def launchable(make_session: Any) -> Any:
    session = make_session([0.005])
    session.cuda, session.stream = FakeCuda(), 7
    session.launch = lambda: session.cuda.calls.append("launch")
    return session


def test_the_clock_is_read_around_a_run(make_session: Any, clock: Any) -> None:
    timer = timer_of(make_session([0.010, 0.020]), FEEDS, clock)
    assert (type(timer), timer.kind) == (Timer, "perf_counter")
    assert [timer(0).seconds, timer(1).seconds] == pytest.approx([0.010, 0.020])
    assert timer(2).with_copies is None


def test_inputs_take_turns(make_session: Any, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = make_session([0.01])
    seen: list[float] = []

    def run(feeds: dict[str, Any]) -> dict[str, Any]:
        seen.append(float(feeds["images"].flat[0]))
        return {}

    monkeypatch.setattr(session, "_run", run)
    timer = Timer(session, FEEDS, clock)
    for number in range(5):
        timer(number)
    assert seen == [0, 1, 2, 0, 1]


def test_events_enclose_the_kernels_and_the_clock_the_copies_too(launchable: Any, clock: Any) -> None:
    cuda = launchable.cuda
    timer = timer_of(launchable, FEEDS, clock)
    assert (type(timer), timer.kind) == (EventTimer, "cuda events")
    sample = timer(0)
    assert (sample.seconds, sample.with_copies) == pytest.approx((0.002, 0.005))
    assert cuda.calls == ["event 1 in 7", "launch", "event 2 in 7", "from 1 to 2"]
    timer.close()
    assert cuda.live == []


def test_a_session_without_a_stream_has_no_events(make_session: Any, clock: Any) -> None:
    with pytest.raises(TypeError, match="cuda, stream and launch, found FakeSession"):
        EventTimer(make_session([0.01]), FEEDS, clock)
