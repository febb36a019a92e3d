"""Progress and Ctrl-C while TensorRT is at work.

A build is one call that lasts minutes. It runs in a thread, so that the main thread can show the time and
hear Ctrl-C: an exception inside one of TensorRT's callbacks would end the process, so Ctrl-C only sets a flag
that the progress monitor (10.x and newer) answers TensorRT's questions with. On 8.6 a build cannot be
stopped: the first Ctrl-C waits for its end, the second leaves at once, and nothing is written either way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tofe_export.errors import UsageError
from tofe_export.trt.api import Trt
from tofe_export.trt.compat import Features

TICK = 0.2  # seconds between two looks

T = TypeVar("T")


class LeftRunning(KeyboardInterrupt):
    """A second Ctrl-C: the work goes on in its thread, and only the end of the process stops it.

    The process must end without cleaning up (`os._exit`): libraries that are torn down under a thread of
    TensorRT's crash.
    """


class Stage:
    """What is being done, written by the working thread, read by the main one."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self._started = time.monotonic()
        self._text = "starting"

    def set(self, text: str) -> None:
        """Name what begins."""
        self._text = text

    def __str__(self) -> str:
        """Such as "Build 12/87, 41 s"."""
        return f"{self._text}, {time.monotonic() - self._started:.0f} s"


def progress_monitor(trt: Trt, features: Features, stage: Stage) -> Any:  # noqa: ANN401 - a class made here
    """An object that TensorRT reports its phases to, and asks whether to go on."""
    if not features.progress:
        raise UsageError(f"TensorRT {features.text} reports no progress")

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a base that is Any
        """Keeps the steps of each phase."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # pybind11 wants the base's own call
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            """A phase begins."""
            self._steps[phase_name] = num_steps
            stage.set(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """A step is done; False stops the build."""
            stage.set(f"{phase_name} {step + 1}/{self._steps.get(phase_name, 0)}")
            return not stage.stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            """A phase is over."""
            self._steps.pop(phase_name, None)

    return Monitor()


def run_stoppable(
    work: Callable[[], T], stage: Stage, tick: Callable[[str], None], on_stop: Callable[[], None]
) -> T:
    """Run `work` in a thread, call `tick` with the stage meanwhile; what it returns or raises comes back.

    Ctrl-C sets `stage.stop`, calls `on_stop` once and waits for `work`; a second one does not wait. Either
    way KeyboardInterrupt is raised, whatever `work` did; LeftRunning the second time.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []
    done = threading.Event()  # Thread.join takes a thread for ended when Ctrl-C interrupts it (bpo-45274)

    def run() -> None:
        try:
            outcome.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            failure.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="tensorrt", daemon=True)
    try:
        thread.start()
        _wait(done, stage, tick)
    except KeyboardInterrupt:
        stage.stop.set()
        try:
            on_stop()
            if thread.ident is not None:  # it was started
                _wait(done, stage, tick)
        except KeyboardInterrupt as second:
            raise LeftRunning from second
        raise
    if failure:
        raise failure[0]
    return outcome[0]


def _wait(done: threading.Event, stage: Stage, tick: Callable[[str], None]) -> None:
    while not done.wait(TICK):
        tick(str(stage))
