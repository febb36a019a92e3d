"""TensorRT's own lines, collected.

TensorRT says why something failed in its log only: calls return None or False. It also keeps the first logger
of a process for good (later ones are ignored with a warning), so there is one logger per module, and what it
hears goes to whoever is listening: `with logger.listening() as lines`. Lines below a warning are dropped; a
build has ten thousands of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from tofe_export.trt.api import Logger, Trt

_ERRORS = ("ERROR", "INTERNAL_ERROR")
_MOST = 1000  # lines of one kind; a build that fails repeats itself


@dataclass
class Lines:
    """What TensorRT said, in order, without repetitions."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Keep an error or a warning; `severity` as TensorRT names it."""
        kept = self.errors if severity in _ERRORS else self.warnings if severity == "WARNING" else None
        if kept is not None and len(kept) < _MOST and text not in kept:
            kept.append(text)

    @property
    def everything(self) -> list[str]:
        """Errors first."""
        return [*self.errors, *self.warnings]


class Collector:
    """The one logger of a TensorRT module; `handle` is the object that TensorRT takes."""

    def __init__(self, trt: Trt) -> None:
        self._listeners: list[Lines] = []
        self.handle = _make(trt, self)

    @contextmanager
    def listening(self) -> Iterator[Lines]:
        """Lines that come in while the body runs."""
        lines = Lines()
        self._listeners.append(lines)
        try:
            yield lines
        finally:
            self._listeners = [listener for listener in self._listeners if listener is not lines]

    def hear(self, severity: str, text: str) -> None:
        """Pass a line on. Called by TensorRT from any of its threads; must not raise."""
        for lines in self._listeners:
            lines.add(severity, text)


@cache
def logger_of(trt: Trt) -> Collector:
    """The logger of a TensorRT module, made on first use."""
    return Collector(trt)


def _make(trt: Trt, collector: Collector) -> Logger:
    """An instance of a class whose base is only known once TensorRT is loaded."""

    class Ears(trt.ILogger):  # type: ignore[misc]  # a base that is Any
        """Hears every line."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 wants the base's own call

        def log(self, severity: object, msg: str) -> None:
            """Called by TensorRT; `severity` prints as "Severity.ERROR"."""
            collector.hear(str(severity).rpartition(".")[2], str(msg))

    return Ears()
