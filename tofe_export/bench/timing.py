"""The time of one run.

By the clock: from handing the arrays over until the answers are there. That is what a caller waits for, and
on a processor all there is.

By CUDA's events, where a session lets its kernels be started apart from its copies (`Launchable`): the
device's own time between two points in its stream, without the copies of pictures and answers. Kernels that
wait for the processor to start them are waited for, so CUDA graphs show. The whole run by the clock is taken
beside it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from tofe_export.bench.rounds import Clock, Sample
from tofe_export.runtime.session import Array, Session

BY_CLOCK = "perf_counter"
BY_EVENTS = "cuda events"

Feeds = Mapping[str, Array]


class Events(Protocol):
    """What measuring needs of `runtime.cuda.Cuda`."""

    def create_event(self) -> int: ...  # noqa: D102
    def record_event(self, event: int, stream: int) -> None: ...  # noqa: D102
    def elapsed_ms(self, start: int, end: int) -> float: ...  # noqa: D102
    def destroy_event(self, event: int) -> None: ...  # noqa: D102


@runtime_checkable
class Launchable(Protocol):
    """A session that can run again on what lies on the device, as `TensorRtSession` does."""

    @property
    def cuda(self) -> Events:
        """The CUDA that its stream belongs to."""

    @property
    def stream(self) -> int:
        """Where `launch` puts its kernels."""

    def launch(self) -> None:
        """Start one run on the inputs of the last `infer`, without copies and without waiting."""


class Timer:
    """Times a session's runs by the clock; run `number` takes the inputs `feeds[number % len(feeds)]`."""

    kind = BY_CLOCK

    def __init__(self, session: Session, feeds: Sequence[Feeds], clock: Clock = time.perf_counter) -> None:
        self._session, self._feeds, self._clock = session, feeds, clock

    def __call__(self, number: int) -> Sample:
        """Run once."""
        return Sample(self._by_clock(number))

    def close(self) -> None:
        """Give back what measuring took; the session stays open."""

    def _by_clock(self, number: int) -> float:
        feeds = self._feeds[number % len(self._feeds)]
        start = self._clock()
        self._session.infer(feeds)
        return self._clock() - start


class EventTimer(Timer):
    """Times a session's kernels by events, and its whole run by the clock."""

    kind = BY_EVENTS

    def __init__(self, session: Session, feeds: Sequence[Feeds], clock: Clock = time.perf_counter) -> None:
        super().__init__(session, feeds, clock)
        if not isinstance(session, Launchable):
            raise TypeError(
                f"expected a session with cuda, stream and launch, found {type(session).__name__}"
            )
        self._device = session
        self._start, self._end = session.cuda.create_event(), session.cuda.create_event()

    def __call__(self, number: int) -> Sample:
        """Run twice: with copies, then the kernels alone."""
        with_copies = self._by_clock(number)
        cuda, stream = self._device.cuda, self._device.stream
        cuda.record_event(self._start, stream)
        self._device.launch()
        cuda.record_event(self._end, stream)
        return Sample(cuda.elapsed_ms(self._start, self._end) / 1e3, with_copies)

    def close(self) -> None:
        """Give the events back."""
        for event in (self._start, self._end):
            self._device.cuda.destroy_event(event)


def timer_of(session: Session, feeds: Sequence[Feeds], clock: Clock = time.perf_counter) -> Timer:
    """Events where the session offers them, else the clock."""
    kind = EventTimer if isinstance(session, Launchable) else Timer
    return kind(session, feeds, clock)
